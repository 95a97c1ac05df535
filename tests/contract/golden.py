"""Golden payloads: what each message looks like on the wire and as JSON, committed, so that a change shows in a diff.

`make golden` writes them anew; do that only for a change of the contract that you want.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests import protos

FOLDER: Final = Path(__file__).resolve().parent / "golden"
COMMAND: Final = "make golden"

Payload = dict[str, Any]
"""`{"json": …, "binary": "<hex>"}`."""

_DEEPEST: Final = 4
"""Messages that hold themselves end here."""
_WELL_KNOWN: Final[dict[str, Any]] = {
    "google.protobuf.Timestamp": "2026-01-02T03:04:05.678901Z",
    "google.protobuf.Duration": "90.500s",
    "google.protobuf.Any": {"@type": "type.googleapis.com/google.protobuf.Timestamp", "value": "2026-01-02T03:04:05Z"},
    "google.protobuf.FieldMask": "displayName,labels",
    "google.protobuf.Struct": {"text": "Grüße", "number": 1.5, "yes": True, "none": None, "list": [1, {"deep": "x"}]},
}


def payloads() -> dict[str, dict[str, Payload]]:
    """Returns the payload of each example, by package and the message's name within it."""
    found: dict[str, dict[str, Payload]] = {}
    for descriptor in protos.messages():
        package = found.setdefault(descriptor.file.package, {})
        for name, message in _examples(descriptor):
            package[name] = payload_of(message)
    return found


def payload_of(message: Message) -> Payload:
    """Returns ``message`` in both encodings."""
    return {"json": json_format.MessageToDict(message), "binary": message.SerializeToString(deterministic=True).hex()}


def example(descriptor: Descriptor, *, alternative: int = 0) -> Message:
    """Returns a message with every field set; of each oneof the field number ``alternative``."""
    message = GetMessageClass(descriptor)()
    _fill(message, descriptor, alternative, depth=0)
    return message


def load() -> dict[str, dict[str, Payload]]:
    """Reads the committed payloads."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def write() -> None:
    """Replaces the committed payloads."""
    FOLDER.mkdir(exist_ok=True)
    for stale in FOLDER.glob("*.json"):
        stale.unlink()
    for package, examples in payloads().items():
        text = json.dumps(examples, indent=1, ensure_ascii=False, sort_keys=True)
        (FOLDER / f"{package}.json").write_text(f"{text}\n")


def _examples(descriptor: Descriptor) -> Iterator[tuple[str, Message]]:
    name = descriptor.full_name.removeprefix(f"{descriptor.file.package}.")
    most = max((len(oneof.fields) for oneof in descriptor.oneofs), default=1)
    for alternative in range(most):
        yield name if most == 1 else f"{name}[{alternative}]", example(descriptor, alternative=alternative)


def _fill(message: Message, descriptor: Descriptor, alternative: int, *, depth: int) -> None:
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and oneof.fields[alternative % len(oneof.fields)] is not field:
            continue
        if field.message_type is not None and protos.is_map_entry(field.message_type):
            _fill_map(getattr(message, field.name), field.message_type, alternative, depth)
        elif field.is_repeated:
            # Two different values; of a message twice the same would say no more.
            numbers = (1,) if field.message_type is not None else (1, 2)
            getattr(message, field.name).extend(_items(field, numbers, alternative, depth))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(*_items(field, (1,), alternative, depth))
        else:
            setattr(message, field.name, _scalar(field, 1))


def _fill_map(entries: Any, entry: Descriptor, alternative: int, depth: int) -> None:
    key, value = entry.fields
    for number in (1, 2):
        if value.message_type is not None:
            entries[_scalar(key, number)].CopyFrom(*_items(value, (number,), alternative, depth))
        else:
            entries[_scalar(key, number)] = _scalar(value, number)


def _items(field: FieldDescriptor, numbers: tuple[int, ...], alternative: int, depth: int) -> list[Any]:
    kind = field.message_type
    if kind is None:
        return [_scalar(field, number) for number in numbers]
    message = GetMessageClass(kind)()
    if kind.full_name in _WELL_KNOWN:
        json_format.ParseDict(_WELL_KNOWN[kind.full_name], message)
    elif depth < _DEEPEST:
        _fill(message, kind, alternative, depth=depth + 1)
    return [message]


def _scalar(field: FieldDescriptor, number: int) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            is_text = field.type == FieldDescriptor.TYPE_STRING
            value: Any = f"{field.name} {number}" if is_text else bytes([0, 255, number])
        case FieldDescriptor.CPPTYPE_BOOL:
            value = True
        case FieldDescriptor.CPPTYPE_ENUM:
            value = cast(EnumDescriptor, field.enum_type).values[-number].number
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            value = number + 0.5
        case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
            value = 2**53 + number  # JSON writes it as a text
        case _:
            value = field.number + number
    return value


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(f"usage: {COMMAND}")
    write()
