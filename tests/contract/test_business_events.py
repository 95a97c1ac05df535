"""The business events of docs/telemetry.md are those of the contract: their names are read before they are promised."""

import re
from collections import defaultdict
from typing import Final

from api_common.events import event_name

from tests.protos import ROOT
from tests.security.world import rpcs

PAGE: Final = ROOT / "docs" / "telemetry.md"


def test_every_write_has_an_event_that_the_documentation_names() -> None:
    names: dict[str, list[str]] = defaultdict(list)
    for one in (rpc.policy for rpc in rpcs() if not rpc.policy.read_only):
        name = event_name(one)
        assert name, f"{one.path} changes something, and no event says so: let it answer with the resource"
        resource, _, what = name.partition(".")
        if what not in names[resource]:
            names[resource].append(what)
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\w, ]+?)(?:; .*)? \|$", PAGE.read_text(), re.MULTILINE))
    for resource, told in names.items():
        row = f"| `{resource}` | {', '.join(told)} |"
        assert rows.get(resource) == ", ".join(told), f"docs/telemetry.md must say, if it reads well:\n{row}"
