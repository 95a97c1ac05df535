"""The rules of an agent: its states, tools and parameters.

Tools are plain JSON: `[{"name", "description", "input_schema"}]`. The rules of the
contract (patterns, counts) are checked before.
"""

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote

from api_common.contract import MAX_STRUCT_DEPTH, size_violations
from api_common.errors import FailedPreconditionError, FieldViolation
from api_common.resources import Lifecycle
from jsonschema_rs import Draft202012Validator

from agents_service.errors import InvalidToolsError

_MAX_SHOWN: Final = 200
_REFERENCES: Final = ("$ref", "$dynamicRef")
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")
_LIST_INDEX: Final = re.compile("0|[1-9][0-9]{0,3}")
# The validator contains the meta-schema, so nothing is fetched.
_META_SCHEMA: Final = Draft202012Validator({"$ref": "https://json-schema.org/draft/2020-12/schema"})


class State(StrEnum):
    DRAFT = "DRAFT"
    ACTIVE = "ACTIVE"
    DISABLED = "DISABLED"


LIFECYCLE: Final = Lifecycle(
    resource="agent",
    transitions={
        "activate": ({State.DRAFT, State.DISABLED}, State.ACTIVE),
        "disable": ({State.ACTIVE}, State.DISABLED),
    },
)


def require_active(states: Sequence[str]) -> None:
    """Checks that agents may be deployed.

    Raises:
        FailedPreconditionError: some are not ACTIVE; the violations name them, as `ids[3]`.
    """
    idle = [
        FieldViolation(f"ids[{place}]", f"is {state} and must be ACTIVE", "NOT_ALLOWED")
        for place, state in enumerate(states)
        if state != State.ACTIVE
    ]
    if idle:
        raise FailedPreconditionError("An agent is not ACTIVE.", violations=idle)


def validate_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Checks that names are unique and every input schema is a JSON Schema (Draft 2020-12) of an object.

    Raises:
        InvalidToolsError: a rule is broken; there is one violation per tool and rule.
    """
    violations = list(_tool_violations(tools))
    if violations:
        raise InvalidToolsError(violations=violations)


def _tool_violations(tools: Sequence[Mapping[str, Any]]) -> Iterator[FieldViolation]:
    first_use: dict[str, int] = {}
    for index, tool in enumerate(tools):
        field = f"agent.tools[{index}]"
        first = first_use.setdefault(tool["name"], index)
        if first != index:
            yield FieldViolation(f"{field}.name", f"is the name of tools[{first}]: `{tool['name']}`", "DUPLICATE")
        schema = tool.get("input_schema") or {}
        yield from _schema_violations(f"{field}.input_schema", schema, list(_walk(schema)))


def _schema_violations(
    field: str, schema: Mapping[str, Any], walked: Sequence[tuple[int, Any]]
) -> Iterator[FieldViolation]:
    if any(depth > MAX_STRUCT_DEPTH and isinstance(value, dict | list) for depth, value in walked):
        yield FieldViolation(field, f"nests deeper than {MAX_STRUCT_DEPTH} levels", "TOO_LONG")
        return
    yield from size_violations(field, schema)
    if schema.get("type") != "object":
        yield FieldViolation(field, 'must have `"type": "object"`: a tool takes named arguments', "INVALID_VALUE")
    broken = next(iter(_META_SCHEMA.iter_errors(schema)), None)
    if broken is not None:
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in broken.instance_path)
        yield FieldViolation(field, f"is no JSON Schema: ${path}: {broken.message}"[:_MAX_SHOWN], "INVALID_VALUE")
        return
    yield from _reference_violations(field, schema, [value for _, value in walked if isinstance(value, dict)])


def _reference_violations(
    field: str, schema: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> Iterator[FieldViolation]:
    """Yields references that leave the schema or point to nothing; none is ever fetched.

    Anything under a key `$ref` counts, also in `const` and `enum`: refusing too much is safer than fetching by mistake.
    """
    anchors = {value for one in objects for key in _ANCHORS if isinstance(value := one.get(key), str)}
    for reference in (value for one in objects for key in _REFERENCES if isinstance(value := one.get(key), str)):
        if not reference.startswith("#"):
            description = f"holds a reference that does not begin with `#`: `{reference[:_MAX_SHOWN]}`"
            yield FieldViolation(field, description, "INVALID_VALUE")
        elif not _leads_somewhere(unquote(reference[1:]), schema, anchors):
            yield FieldViolation(
                field, f"holds a reference that leads nowhere: `{reference[:_MAX_SHOWN]}`", "NOT_FOUND"
            )


def _leads_somewhere(fragment: str, schema: Mapping[str, Any], anchors: Set[str]) -> bool:
    """Returns whether ``schema`` contains the JSON pointer (RFC 6901) or the anchor."""
    if not fragment.startswith("/"):
        return not fragment or fragment in anchors
    place: Any = schema
    for raw in fragment[1:].split("/"):
        segment = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(place, dict) and segment in place:
            place = place[segment]
        elif isinstance(place, list) and _LIST_INDEX.fullmatch(segment) and int(segment) < len(place):
            place = place[int(segment)]
        else:
            return False
    return isinstance(place, dict | bool)


def _walk(value: Any) -> Iterator[tuple[int, Any]]:
    """Yields ``value`` and every value in it with its depth, in the order of the document, without recursion."""
    pending = [(1, value)]
    while pending:
        depth, value = pending.pop()
        yield depth, value
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        pending.extend((depth + 1, item) for item in reversed(inner))
