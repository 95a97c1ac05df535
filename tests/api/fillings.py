"""What a request may be filled with: every place of its message that takes much, written as bytes."""

from collections.abc import Iterator
from functools import cache
from typing import Final, NamedTuple

from api_common.contract import MAX_FIELDS
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from bench.attack.messages import field, varint, within
from tests import protos

ROOM: Final = 10 * 1024 * 1024 - 4096
"""The size of the largest filling, with room for what surrounds it."""
EMOJI: Final = "😀".encode() * (ROOM // 4)

_UNKNOWN: Final = 2047
"""The number of a field that no message has."""
_TEXTS: Final = frozenset({FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES})


class Fill(NamedTuple):
    """What a request may be filled with."""

    kind: str
    path: tuple[int, ...]
    """The numbers of the fields that it lies in."""
    large: bytes
    """10 MiB."""
    allowed: bytes
    """As much as no limit of ours forbids."""

    def write(self, filling: bytes) -> bytes:
        """Returns the request around a filling."""
        return within(self.path, filling)


def sizes(unit: bytes, fields: int) -> tuple[bytes, bytes]:
    """Returns as many of ``unit`` as 10 MiB hold, and as many as the limit of fields allows."""
    return unit * (ROOM // len(unit)), unit * min(ROOM // len(unit), (MAX_FIELDS - 500) // fields)


@cache
def entries(number: int, value: bytes, fields: int) -> tuple[bytes, bytes]:
    """Returns a map in the field ``number``, with distinct keys."""
    most, allowed = ROOM // (len(value) + 12), (MAX_FIELDS - 500) // fields
    first = field(number, field(1, b"000000") + value)
    head, tail = first.split(b"000000")
    every = head + (tail + head).join(b"%06x" % index for index in range(most)) + tail
    return every, every[: allowed * len(first)]


@cache
def structs() -> dict[str, tuple[bytes, bytes]]:
    """Returns Structs of every shape."""
    made = {"members": entries(1, field(2, b"\x08\0"), 4)}
    for name, value, fields in (
        ("nulls", b"\x08\0", 2),
        ("numbers", b"\x11" + b"\x01" * 8, 2),
        ("objects", field(5, field(1, field(1, b"a") + field(2, b"\x08\0"))), 6),
        ("lists", field(6, b""), 2),
    ):
        large, allowed = (
            field(1, field(1, b"a") + field(2, field(6, items))) for items in sizes(field(1, value), fields)
        )
        made[name] = (large, allowed)
    return made


def fills(message: Descriptor, path: tuple[int, ...] = (), seen: frozenset[Descriptor] = frozenset()) -> Iterator[Fill]:
    """Yields every place in a message that can be filled."""
    for declared in message.fields:
        number, held, within = declared.number, declared.message_type, (*path, declared.number)
        if held is None:
            if declared.type in _TEXTS:
                yield Fill("text", within, EMOJI, EMOJI[:200_000])
            if declared.is_repeated:
                yield Fill("items", path, *sizes(field(number, b"" if declared.type in _TEXTS else b"\1"), 1))
        elif protos.is_map_entry(held):
            yield Fill("map", path, *entries(number, field(2, b"v"), 3))
        elif held.full_name == "google.protobuf.Struct":
            yield from (Fill(f"Struct of {shape}", within, *written) for shape, written in structs().items())
        else:
            if declared.is_repeated:
                yield Fill("messages", path, *sizes(field(number, b""), 1))
            if held not in seen:
                yield from fills(held, within, seen | {message})


def unknown() -> Iterator[Fill]:
    """Yields what no message knows."""
    for name, unit in (
        ("varints", varint(_UNKNOWN << 3) + b"\1"),
        ("texts", field(_UNKNOWN, b"")),
        ("groups", b"\xfb\x7f\xfc\x7f"),
    ):
        yield Fill(f"unknown {name}", (), *sizes(unit, 2))
    yield Fill("unknown text", (_UNKNOWN,), b"x" * ROOM, b"")
