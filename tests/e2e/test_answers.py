"""The document shows real answers: `tools/openapi/answers.json` is what the mesh answers, or this test fails."""

import json
import os
import secrets

import httpx
import pytest

from tests.contract.test_openapi import OPERATIONS
from tests.e2e.answers import NOT_AT_ONCE, REFUSED, Recorder
from tools.openapi.refusals import sent
from tools.openapi.schemas import ANSWERS
from tools.secrets import identity
from tools.topology import Mesh

# The start of the mesh is the first test's.
pytestmark = pytest.mark.timeout(180)


def test_the_examples_are_what_the_mesh_answers(mesh: Mesh) -> None:
    tenant = f"t-{secrets.token_hex(8)}"
    with httpx.Client(base_url=mesh.url, timeout=20) as client:

        def sign_in(sub: str, *roles: str) -> None:
            token = identity.mint(mesh.issuer, sub=sub, tenant=tenant, roles=roles)
            client.headers["authorization"] = f"Bearer {token}"

        found = Recorder(client, sign_in).record()
    assert found.keys() == OPERATIONS.keys() | REFUSED.keys(), "call the new operation in tests/e2e/answers.py"
    # A reason that is recorded needs no excuse, and each other one has its own.
    assert REFUSED.keys() ^ NOT_AT_ONCE.keys() == sent().keys(), "provoke the new reason in tests/e2e/answers.py"
    if os.environ.get("ANSWERS") == "write":
        ANSWERS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(ANSWERS.read_text()), "answers have changed: run `make answers`, then look at them"
