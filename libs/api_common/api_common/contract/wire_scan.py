"""Bounds a request before it is decoded: from then on each of its fields holds the event loop for a moment."""

from collections.abc import Iterator
from math import inf
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from api_common.contract.json_size import MAX_STRUCT_BYTES
from api_common.errors import ValidationError, ViolationReason

MAX_FIELDS: Final = 12_000
"""The most fields of a request: its own, those of messages and JSON values in it, and every item of lists and maps.

The largest workflow has 10,500. Source: decoding, checking and converting take up to 1.5 µs a field each, so that no
step holds the event loop for more than 30 ms on a busy machine (`tests/api/test_loop_lag.py`).
"""

MAX_TEXT_BYTES: Final = 256 * 1024
"""The longest text that is decoded though its rules allow less: the rules are checked in characters, and together."""

_MAX_WIRE_STRUCT_BYTES: Final = 4 * MAX_STRUCT_BYTES
"""A JSON value takes two fields and is at most 11 bytes longer than its JSON, so this holds all that may be stored."""

_BYTES_OF_CHARACTER: Final = 4
_RULES: Final[Any] = validate_pb2.field
_TEXTS: Final = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAP_KEY: Final = 1 << 3 | _LENGTH


class WireScan:
    """Reads the encoded requests of one message type without making anything of them.

    Args:
        descriptor: the `DESCRIPTOR` of the request's class, for which the stubs have two types.
    """

    def __init__(self, descriptor: Any) -> None:
        self._plan = _plan(descriptor, {})

    def check(self, payload: bytes) -> None:
        """Looks at the fields of ``payload`` up to the first one that is refused.

        No payload of up to `MAX_FIELDS` bytes without NUL is.

        Raises:
            ValidationError: this is no message, has too many fields, has a field that is longer than its rules may ever
                allow, or a text that holds NUL, which Postgres cannot store.
        """
        try:
            _scan(self._plan, payload, 0, len(payload), MAX_FIELDS)
        except (IndexError, RecursionError) as error:
            raise ValidationError("The request does not decode as the method's message.") from error
        except _RefusedFieldError as refused:
            path = ".".join(reversed(refused.path))
            raise ValidationError.of(path, refused.description, refused.reason) from None


class _RefusedFieldError(Exception):
    """A field is too long, or a text holds NUL."""

    def __init__(self, description: str, reason: ViolationReason) -> None:
        self.description, self.reason = description, reason
        self.path: list[str] = []
        """From the inside to the outside."""


class _Field:
    """What a length-delimited field may hold."""

    def __init__(self, declared: FieldDescriptor, known: "dict[Descriptor, dict[int, _Field]]") -> None:
        held = declared.message_type
        self.name = declared.name
        self.repeated = declared.is_repeated
        self.mapped = held is not None and held.GetOptions().map_entry
        self.plan = None if held is None else _plan(held, known)
        self.packed = held is None and declared.type not in _TEXTS
        self.text = declared.type == FieldDescriptor.TYPE_STRING
        self.max_bytes = _max_bytes(declared)


def _max_bytes(declared: FieldDescriptor) -> float:
    if declared.message_type is not None:
        return _MAX_WIRE_STRUCT_BYTES if declared.message_type.full_name == "google.protobuf.Struct" else inf
    if declared.type not in _TEXTS:
        return inf
    rules = declared.GetOptions().Extensions[_RULES]
    rules = (rules.repeated.items if declared.is_repeated else rules).string
    return int(rules.max_bytes or rules.max_len * _BYTES_OF_CHARACTER or MAX_TEXT_BYTES)


def _plan(descriptor: Descriptor, known: dict[Descriptor, dict[int, _Field]]) -> dict[int, _Field]:
    """Returns the fields of a message type by tag; ``known`` ends the recursion of types that contain themselves."""
    if descriptor not in known:
        plan = known[descriptor] = {}
        plan |= {field.number << 3 | _LENGTH: _Field(field, known) for field in descriptor.fields}
    return known[descriptor]


def _scan(plan: dict[int, _Field], data: bytes, start: int, end: int, left: int) -> int:
    """Returns how many of the ``left`` fields remain after those of the message from ``start`` to ``end``."""
    for tag, begin, after in _fields(data, start, end):
        left -= 1
        field = plan.get(tag)
        if field is not None:
            try:
                if after - begin > max(field.max_bytes, MAX_TEXT_BYTES):
                    raise _RefusedFieldError(f"must be at most {field.max_bytes} bytes", "TOO_LONG")
                if field.text and data.find(0, begin, after) >= 0:
                    raise _RefusedFieldError("must not hold a NUL character", "INVALID_FORMAT")
                if field.plan is not None:
                    left = _scan(field.plan, data, begin, after, left)
            except _RefusedFieldError as refused:
                index = sum(other == tag for other, _, _ in _fields(data, start, begin)) - 1
                refused.path.append(_step(field, index, refused.path, data[begin:after]))
                raise
            if field.packed:
                left -= after - begin
        if left < 0:
            raise ValidationError(
                f"A request may have at most {MAX_FIELDS:,} fields, items and JSON values.",
                metadata={"max_fields": str(MAX_FIELDS)},
            )
    return left


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields the tag of each field, and where its value begins and ends. The parts of groups count as fields."""
    while position < end:
        tag = data[position]
        position += 1
        if tag > 0x7F:
            tag, position = _varint(data, position - 1)
        wire = tag & 7
        begin = position
        if wire == _LENGTH:
            length = data[position]
            begin = position + 1
            if length > 0x7F:
                length, begin = _varint(data, position)
            position = begin + length
        elif wire == _VARINT:
            while data[position] > 0x7F:
                position += 1
            position += 1
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
        yield tag, begin, position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns the number at ``position`` and where it ends."""
    number = shift = 0
    while (byte := data[position]) > 0x7F:
        number |= (byte & 0x7F) << shift
        shift += 7
        position += 1
    return number | byte << shift, position + 1


def _step(field: _Field, index: int, inner: list[str], value: bytes) -> str:
    """Returns the part of a path that a field is: `name`, `name[3]` or `name['key']`."""
    if not field.mapped:
        return f"{field.name}[{index}]" if field.repeated else field.name
    if not inner or inner.pop() == "key":
        return field.name
    keys = [value[begin:after] for tag, begin, after in _fields(value, 0, len(value)) if tag == _MAP_KEY]
    return f"{field.name}[{keys[-1].decode(errors='replace')[:64] if keys else ''!r}]"
