"""Finds texts in a message that Postgres cannot store."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def nul_fields(message: Message, prefix: str = "") -> Iterator[str]:
    """Yields the path of every text that holds a NUL.

    Recursion is bounded: protobuf itself refuses messages nested deeper than 100.
    """
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if _is_map(field):
            yield from _in_map(field, value, path)
        elif field.is_repeated:
            for index, item in enumerate(value):
                yield from _in_value(field, item, f"{path}[{index}]")
        else:
            yield from _in_value(field, value, path)


def _in_value(field: FieldDescriptor, value: Any, path: str) -> Iterator[str]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        yield from nul_fields(value, f"{path}.")
    elif field.type == FieldDescriptor.TYPE_STRING and "\0" in value:
        yield path


def _in_map(field: FieldDescriptor, entries: Any, path: str) -> Iterator[str]:
    assert field.message_type is not None  # a map's entries are messages
    key_field, value_field = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
    for key, value in entries.items():
        if key_field.type == FieldDescriptor.TYPE_STRING and "\0" in key:
            yield path
        yield from _in_value(value_field, value, f"{path}[{str(key)[:64]!r}]".replace("\\x00", "?"))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
