"""Enforces `google.api.field_behavior` on the fields of requests (AIP-203).

The descriptors are read once per method, at start, so that a call visits only the annotated fields.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice
from math import inf
from typing import Any, Final

from buf.validate import validate_pb2
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from api_common.errors import FieldViolation

MAX_VIOLATIONS: Final = 100
"""The most violations of one request; a few bytes make an empty item, so a small request could cause millions."""

_BEHAVIOR: Final[Any] = field_behavior_pb2.field_behavior
_RULES: Final[Any] = validate_pb2.field


def has_behavior(declared: FieldDescriptor, name: str) -> bool:
    """Tells whether the contract gives a field a behavior, e.g. `OUTPUT_ONLY`."""
    value: int = field_behavior_pb2.FieldBehavior.Value(name)
    return value in declared.GetOptions().Extensions[_BEHAVIOR]


class FieldBehavior:
    """The behaviors of the fields of one request message, and of all messages in it.

    Args:
        descriptor: the `DESCRIPTOR` of the request's class, for which the stubs have two types.
    """

    def __init__(self, descriptor: Any) -> None:
        self._plan = _plan(descriptor, {})
        self.has_required: Final = bool(self._plan.required or self._plan.checked)
        """Whether `check` can find anything."""
        self.has_output_only: Final = bool(self._plan.output_only or self._plan.stripped)
        """Whether `strip_output_only` can clear anything."""

    def check(self, request: Message) -> list[FieldViolation]:
        """Returns violations for REQUIRED fields that are not populated, the first hundred.

        A request with an `update_mask` needs only the fields that it writes (all for `*`, the populated ones without a
        mask), and the identifier.
        """
        missing = islice(_missing(self._plan, request, None), MAX_VIOLATIONS)
        return [FieldViolation(path, "is required", "REQUIRED") for path in missing]

    def strip_output_only(self, request: Message) -> None:
        """Clears the OUTPUT_ONLY fields in place, except identifiers; clients may send back what they read."""
        _strip(self._plan, request)


@dataclass(slots=True)
class _Nested:
    """A field that holds messages."""

    name: str
    plan: "_Plan"
    repeated: bool
    mapped: bool
    most: float
    """How many items the contract allows. A longer list is refused, so its items are not checked."""


@dataclass(slots=True)
class _Plan:
    """The checks of one message type."""

    masked: bool = False
    """Its messages carry an `update_mask`."""
    required: list[tuple[str, bool]] = field(default_factory=list)
    """Names, and whether presence is tracked; elsewhere the zero value counts as absent."""
    identifiers: list[str] = field(default_factory=list)
    output_only: list[str] = field(default_factory=list)
    checked: list[_Nested] = field(default_factory=list)
    """Where required fields may be."""
    stripped: list[_Nested] = field(default_factory=list)
    """Where output-only fields may be."""


def _missing(plan: _Plan, message: Message, written: Collection[str] | None) -> Iterator[str]:
    """Yields the paths of absent fields; ``written`` limits the look to these names."""
    for name, presence in plan.required:
        if (written is None or name in written) and not (
            message.HasField(name) if presence else getattr(message, name)
        ):
            yield name
    for nested in plan.checked:
        if written is not None and nested.name not in written:
            continue
        for path, item in _items(nested, message):
            if plan.masked:
                yield from (f"{path}.{name}" for name in nested.plan.identifiers if not getattr(item, name))
            for inner in _missing(nested.plan, item, _written(message, item) if plan.masked else None):
                yield f"{path}.{inner}"


def _written(request: Any, resource: Message) -> Collection[str] | None:
    paths = request.update_mask.paths
    if "*" in paths:
        return None
    return set(paths) or {populated.name for populated, _ in resource.ListFields()}


def _strip(plan: _Plan, message: Message) -> None:
    for name in plan.output_only:
        message.ClearField(name)
    for nested in plan.stripped:
        for _, item in _items(nested, message):
            _strip(nested.plan, item)


def _items(nested: _Nested, message: Message) -> Iterator[tuple[str, Message]]:
    name = nested.name
    if nested.mapped:
        for key, item in getattr(message, name).items():
            yield f"{name}[{key!r}]", item
    elif nested.repeated:
        items = getattr(message, name)
        for index, item in enumerate(items if len(items) <= nested.most else ()):
            yield f"{name}[{index}]", item
    elif message.HasField(name):
        yield name, getattr(message, name)


def _plan(descriptor: Descriptor, known: dict[Descriptor, _Plan]) -> _Plan:
    """Reads a message type; ``known`` ends the recursion of types that contain themselves."""
    if descriptor in known:
        return known[descriptor]
    mask = descriptor.fields_by_name.get("update_mask")
    plan = known[descriptor] = _Plan(masked=mask is not None)
    for declared in descriptor.fields:
        if has_behavior(declared, "REQUIRED"):
            plan.required.append((declared.name, declared.has_presence))
        if has_behavior(declared, "IDENTIFIER"):
            plan.identifiers.append(declared.name)
        elif has_behavior(declared, "OUTPUT_ONLY"):
            plan.output_only.append(declared.name)
        held = _held(declared)
        if held is None:
            continue
        most = declared.GetOptions().Extensions[_RULES].repeated.max_items or inf
        is_map = held is not declared.message_type
        nested = _Nested(declared.name, _plan(held, known), declared.is_repeated, is_map, most)
        if _reaches(held, "REQUIRED", set()) or plan.masked:
            plan.checked.append(nested)
        if _reaches(held, "OUTPUT_ONLY", set()):
            plan.stripped.append(nested)
    return plan


def _held(declared: FieldDescriptor) -> Descriptor | None:
    """Returns the type of the messages in a field; None for Google's own, which have no annotations."""
    held = declared.message_type
    if held is not None and held.GetOptions().map_entry:
        held = held.fields_by_name["value"].message_type
    return None if held is None or held.full_name.startswith("google.protobuf.") else held


def _reaches(descriptor: Descriptor, behavior: str, visited: set[Descriptor]) -> bool:
    if descriptor in visited:
        return False
    visited.add(descriptor)
    return any(
        has_behavior(declared, behavior)
        or ((held := _held(declared)) is not None and _reaches(held, behavior, visited))
        for declared in descriptor.fields
    )
