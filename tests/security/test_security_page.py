"""docs/security.md names a test for each promise and only what is there; a promise about the contract holds."""

import re
from typing import Final

from tests.protos import ROOT, is_map_entry, request_messages

PAGE: Final = (ROOT / "docs" / "security.md").read_text()
RISKS: Final = 10


def test_every_path_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:tests|libs|services|tools|envoy|proto|docs)/[^`:]+)[`:]", PAGE)
    assert named
    missing = [path for path in named if not (ROOT / path).exists()]
    assert not missing


def test_every_promise_names_a_test() -> None:
    promises, limits = re.subn(r"(?s)\n### Known limits\n.*?(?=\n## )", "", PAGE)
    assert limits == 1
    items = re.findall(r"(?ms)^- .*?(?=^- |^\n|\Z)", promises)
    without = [item for item in items if not re.search(r"`[\w/]+\.py::test_\w+`", item)]
    assert items and not without


def test_every_test_that_the_page_names_exists() -> None:
    path, missing = "", []
    for named, test in re.findall(r"`([\w/]+\.py)?::(test_\w+)`", PAGE):
        path = named or path
        if not re.search(rf"^ *(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE):
            missing.append(f"{path}::{test}")
    assert path and not missing


def test_every_risk_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| API\d+ ", line)]
    assert len(rows) == RISKS
    assert all("test_" in row.rpartition("| `")[2] for row in rows)


def test_no_request_holds_an_address_that_we_would_call() -> None:
    """A field like that needs tests with addresses of this machine, redirects and names that change (LI-10)."""
    fields = [field for message in request_messages() if not is_map_entry(message) for field in message.fields]
    pattern = re.compile(r"(^|_)(ur[il]|href|webhook|callback|endpoint|host|domain|avatar|image|jwks|proxy)s?($|_)")
    found = [field.full_name for field in fields if pattern.search(field.name)]
    assert not found
