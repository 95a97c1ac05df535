"""The OpenAPI document is a collection of requests, too: Bruno, and what else imports OpenAPI, makes one of it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests import node_packages
from tools.openapi.document import PATH

IMPORT: Final = Path(__file__).with_name("collection-import")


def test_bruno_makes_a_request_of_each_operation() -> None:
    folder = node_packages.installed(IMPORT)
    shutil.copy(IMPORT / "import.js", folder)
    done = subprocess.run(["node", "import.js", str(PATH)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    collection = json.loads(done.stdout)
    requests = [one["request"] for group in collection["items"] for one in group["items"]]
    document = json.loads(PATH.read_text())
    operations = {
        (verb.upper(), path.replace("{", ":").replace("}", ""))
        for path, verbs in document["paths"].items()
        for verb in verbs
    }
    assert {(one["method"], one["url"].removeprefix("{{baseUrl}}")) for one in requests} == operations
    assert len(requests) == len(operations)
    assert collection["root"]["request"]["auth"]["bearer"] == {"token": "{{token}}"}
    created = next(one for one in requests if (one["method"], one["url"]) == ("POST", "{{baseUrl}}/v1/users"))
    assert json.loads(created["body"]["json"])["email"] == "ada@example.com"
