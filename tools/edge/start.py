"""Becomes Envoy in the image: `python start.py OPTIONS`, in the folder that `layout` has filled; needs Python alone.

What an environment decides comes from the `edge.json` that is mounted there.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn


def decided(path: Path) -> dict[str, Any]:
    """Reads an `edge.json`, and adds the origins as rules of the rbac filter: also who names none is welcome."""
    found: dict[str, Any] = json.loads(path.read_text())
    rules = [{"present_match": True, "invert_match": True}, *({"string_match": one} for one in found["origins"])]
    return found | {"origin_rules": [{"header": {"name": "origin", **rule}} for rule in rules]}


def look_up(decisions: Mapping[str, Any], place: str) -> Any:
    """Returns the value for a place: `origins`, `rates.READ.tenant`, or `rates.READ.tenant*2` for twice as much.

    `10/rates.READ.tenant` is how many seconds bring 10, as a text.
    """
    amount, _, rest = place.rpartition("/")
    path, _, factor = rest.partition("*")
    found: Any = decisions
    for name in path.split("."):
        found = found[name]
    if amount:
        return str(-(-int(amount) // found))
    return found * int(factor) if factor else found


def fill(template: str, decisions: Mapping[str, Any]) -> str:
    """Returns ``template`` with the value of each decision in its place."""
    return re.sub(r"'@([\w.*/]+)@'", lambda place: json.dumps(look_up(decisions, place[1])), template)


def start(options: list[str]) -> NoReturn:
    """Writes the configuration, and becomes Envoy with it."""
    filled = Path(tempfile.gettempdir()) / "envoy.yaml"
    decisions = decided(Path("edge.json"))
    built = Path("envoy_shared_limits.yaml" if decisions.get("shared_limits") else "envoy.yaml")
    filled.write_text(fill(built.read_text(), decisions))
    os.execvp("envoy", ["envoy", "--config-path", str(filled), *options])  # noqa: S606 - the image's own


if __name__ == "__main__":
    start(sys.argv[1:])
