"""The rules of a workflow: its states, and the graph of its definition.

A definition is plain JSON: `{"nodes": [{"id", "type", "config", …}], "edges": [{"source", "target", …}]}`. The
rules of the contract (patterns, counts, enums) are checked before. Every rule takes linear time and does not recurse,
because 500 nodes may be one path.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from api_common.contract import size_violations
from api_common.errors import FieldViolation, ViolationReason
from api_common.resources import Lifecycle

from workflows_service.errors import InvalidGraphError

MAX_DEFINITION_BYTES: Final = 1024 * 1024
"""The largest definition as compact JSON; a workflow is always read as a whole."""

_FIELD: Final = "workflow.definition"
_SHOWN_OF_CYCLE: Final = 5
"""How many nodes of a long cycle are named: a violation has room for 512 characters."""


class State(StrEnum):
    DRAFT = "DRAFT"
    PUBLISHED = "PUBLISHED"
    ARCHIVED = "ARCHIVED"


LIFECYCLE: Final = Lifecycle(
    resource="workflow",
    transitions={
        "update": ({State.DRAFT, State.PUBLISHED}, None),
        "publish": ({State.DRAFT, State.PUBLISHED}, State.PUBLISHED),
        "archive": ({State.PUBLISHED}, State.ARCHIVED),
        "reserve": ({State.PUBLISHED}, None),
    },
)


def validate_draft(definition: Mapping[str, Any]) -> None:
    """Checks a definition before it is saved: it may be incomplete, but not ambiguous.

    Raises:
        InvalidGraphError: a rule is broken; there is one violation per rule and place.
    """
    _refuse(list(_draft_violations(definition)))


def validate_definition(definition: Mapping[str, Any]) -> None:
    """Checks a definition before it is published: every node is on a path from START to an END.

    Raises:
        InvalidGraphError: a rule is broken; there is one violation per rule and place.
    """
    _refuse([*_draft_violations(definition), *_shape_violations(definition), *_way_violations(definition)])


def _refuse(violations: Sequence[FieldViolation]) -> None:
    if violations:
        raise InvalidGraphError(violations=violations)


def _draft_violations(definition: Mapping[str, Any]) -> Iterator[FieldViolation]:
    known = _index_by_id(definition)
    for index, node in enumerate(definition.get("nodes", ())):
        if known[node["id"]] != index:
            yield _at_node(index, node["id"], f"has the id of nodes[{known[node['id']]}]", "DUPLICATE")
        yield from size_violations(f"{_FIELD}.nodes[{index}].config", node.get("config"))
    for index, edge in enumerate(definition.get("edges", ())):
        unknown = {edge["source"], edge["target"]} - known.keys()
        for id in sorted(unknown):
            yield _at_edge(index, edge, f"names `{id}`, which is not a node", "NOT_FOUND")
    yield from size_violations(_FIELD, definition, max_bytes=MAX_DEFINITION_BYTES)


def _shape_violations(definition: Mapping[str, Any]) -> Iterator[FieldViolation]:
    """Yields the faults of single nodes and edges."""
    nodes, known = definition.get("nodes", ()), _index_by_id(definition)
    starts = ids_of(definition, "START")
    if not starts:
        yield FieldViolation(f"{_FIELD}.nodes", "has no START node", "REQUIRED")
    for id in starts[1:]:
        yield _at_node(known[id], id, f"is a START node beside `{starts[0]}`")
    if not ids_of(definition, "END"):
        yield FieldViolation(f"{_FIELD}.nodes", "has no END node", "REQUIRED")
    seen: set[tuple[str, str]] = set()
    for index, edge in enumerate(definition.get("edges", ())):
        source, target = edge["source"], edge["target"]
        if source == target:
            yield _at_edge(index, edge, "leads back to its own node")
        if (source, target) in seen:
            yield _at_edge(index, edge, "is there already", "DUPLICATE")
        seen.add((source, target))
        if target in known and nodes[known[target]]["type"] == "START":
            yield _at_edge(index, edge, f"leads into the START node `{target}`")
        if source in known and nodes[known[source]]["type"] == "END":
            yield _at_edge(index, edge, f"leads out of the END node `{source}`")


def _way_violations(definition: Mapping[str, Any]) -> Iterator[FieldViolation]:
    """Yields the nodes that a run would never reach, never leave, or visit for ever."""
    known = _index_by_id(definition)
    before: dict[str, set[str]] = {id: set() for id in known}
    after: dict[str, set[str]] = {id: set() for id in known}
    for edge in definition.get("edges", ()):
        source, target = edge["source"], edge["target"]
        # Edges to missing nodes and to their own source are reported already.
        if source in known and target in known and source != target:
            before[target].add(source)
            after[source].add(target)
    starts, ends = ids_of(definition, "START"), ids_of(definition, "END")
    reached, finishing = _reach(starts, after), _reach(ends, before)
    for id, index in known.items():
        # Without a START or an END node every node would be reported.
        if starts and id not in reached:
            yield _at_node(index, id, "cannot be reached from a START node")
        if ends and id not in finishing:
            yield _at_node(index, id, "has no way to an END node")
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        yield _at_node(known[cycle[0]], _drawn(cycle), "lies on a cycle")


def _index_by_id(definition: Mapping[str, Any]) -> dict[str, int]:
    """Returns the index of the first node with each id."""
    known: dict[str, int] = {}
    for index, node in enumerate(definition.get("nodes", ())):
        known.setdefault(node["id"], index)
    return known


def ids_of(definition: Mapping[str, Any], type: str) -> list[str]:
    """Returns the ids of the nodes of a type, in their order."""
    return list(dict.fromkeys(node["id"] for node in definition.get("nodes", ()) if node["type"] == type))


def _reach(origins: Iterable[str], neighbours: Mapping[str, Iterable[str]]) -> set[str]:
    reached = set(origins)
    pending = list(reached)
    while pending:
        fresh = [id for id in neighbours[pending.pop()] if id not in reached]
        reached.update(fresh)
        pending.extend(fresh)
    return reached


def _drawn(cycle: Sequence[str]) -> str:
    shown = list(cycle) if len(cycle) <= _SHOWN_OF_CYCLE else [*cycle[: _SHOWN_OF_CYCLE - 1], "…", cycle[-1]]
    return " → ".join(shown)


def _at_node(index: int, shown: str, problem: str, reason: ViolationReason = "CONFLICT") -> FieldViolation:
    return FieldViolation(f"{_FIELD}.nodes[{index}]", f"{problem}: `{shown}`", reason)


def _at_edge(index: int, edge: Mapping[str, Any], problem: str, reason: ViolationReason = "CONFLICT") -> FieldViolation:
    description = f"{problem}: `{edge['source']} → {edge['target']}`"
    return FieldViolation(f"{_FIELD}.edges[{index}]", description, reason)
