"""Bodies that are small on the wire and large in memory, or no message at all."""

import gzip
import zlib
from collections.abc import Callable
from itertools import cycle, product
from typing import Final

from bench.attack.attacker import Attack, Attacker
from bench.attack.http2 import Pool, bearer, grpc, message
from bench.attack.services import COLLECTIONS, rpc

_FULL: Final = 10 * 1024 * 1024 - 64
"""The largest message that passes the edge, with room for what surrounds its parts."""
_PACKERS: Final[tuple[tuple[str, Callable[[bytes, int], bytes]], ...]] = (
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
)
Path = tuple[int, ...]


def field(number: int, payload: bytes) -> bytes:
    """Returns a field of bytes: a text, a message, an entry of a map."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """Returns a number as protobuf writes it."""
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def within(path: Path, payload: bytes) -> bytes:
    """Wraps a payload into messages, the outermost field first."""
    for number in reversed(path):
        payload = field(number, payload)
    return payload


def many(path: Path, part: bytes) -> bytes:
    """Returns a message of ten mebibytes that repeats one field within others."""
    return within(path, part * (_FULL // len(part)))


_NULL: Final = field(1, b"\x08\0")
_NUMBER: Final = field(1, b"\x11" + b"\0" * 8)


def _list(values: bytes) -> bytes:
    """Returns a Struct with one key, whose value is a list."""
    return field(1, field(1, b"a") + field(2, field(6, values)))


def _deep(levels: int) -> bytes:
    value = b"\x08\0"
    for _ in range(levels):
        value = field(6, field(1, value))
    return field(1, field(1, b"a") + field(2, value))


STRUCTS: Final[dict[str, Path]] = {"agents": (1, 34), "workflows": (1, 31, 1, 4), "ipas": (1, 34)}
"""Where Create takes a document of any shape, by collection."""

BOMBS: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "labels": ("Create", lambda: many((1,), field(4, field(1, b"a") + field(2, b"b")))),
    "labels without keys": ("Create", lambda: many((1,), field(4, b""))),
    "empty creates": ("BatchCreate", lambda: many((), field(1, b""))),
    "updates of nothing": ("BatchUpdate", lambda: many((), field(1, field(1, b"")))),
    "empty deletes": ("BatchDelete", lambda: many((), field(1, b""))),
    "paths of a mask": ("Update", lambda: many((2,), field(1, b"a"))),
    "unknown fields": ("Get", lambda: many((), field(999, b""))),
    "empty ids": ("BatchGet", lambda: many((), field(1, b""))),
    "one long id": ("Get", lambda: field(1, b"\0" * _FULL)),
    "a long name of wide characters": ("Create", lambda: within((1, 3), "\N{GRINNING FACE}".encode() * (_FULL // 4))),
    "a long filter": ("List", lambda: field(3, b"(" * _FULL)),
    "bytes that are no text": ("Create", lambda: within((1, 3), b"\xff" * _FULL)),
}
"""Further kinds, by the verb of the RPC: a message of ten mebibytes that gzip makes ten kilobytes of."""


async def _send(attacker: Attacker, calls: list[tuple[str, bytes]], role: str) -> None:
    pool = Pool(attacker)
    kinds = cycle(product(_PACKERS, calls))
    async for _ in attacker.paced(40, rate=4):
        (encoding, pack), (path, body) = next(kinds)
        headers = grpc(path, bearer(attacker.token(role=role)), ("grpc-encoding", encoding))
        await (await pool.get()).begin(headers, message(pack(body, 9), compressed=True))
    connection = await pool.get()
    while connection.open_streams and not connection.is_closed:
        await attacker.pause(0.05)


async def nul_ids(attacker: Attacker) -> None:
    """Asks as a viewer for millions of ids of one NUL, gzipped into ten kilobytes."""
    body = many((), field(1, b"\0"))
    await _send(attacker, [(rpc(one, "BatchGet"), body) for one in COLLECTIONS], "viewer")


async def struct_nulls(attacker: Attacker) -> None:
    """Creates as an editor what holds a Struct of millions of nulls, gzipped into ten kilobytes."""
    calls: list[tuple[str, bytes]] = [
        (rpc(one, "Create"), within(path, _list(value * (_FULL // len(value)))))
        for value in (_NULL, _NUMBER, _NULL)
        for one, path in STRUCTS.items()
    ]
    calls += [
        (rpc(one, "Create"), within(path, _deep(levels))) for one, path in STRUCTS.items() for levels in (60, 5000)
    ]
    await _send(attacker, calls, "editor")


async def bombs(attacker: Attacker) -> None:
    """Sends every other message of millions of parts to one service after the other."""
    calls = [
        (rpc(COLLECTIONS[number % len(COLLECTIONS)], verb), make())
        for number, (verb, make) in enumerate(BOMBS.values())
    ]
    await _send(attacker, calls, "admin")


async def no_message(attacker: Attacker) -> None:
    """Makes thousands of calls whose body is not exactly one message, with a token that has no role."""
    pool = Pool(attacker)
    bodies = (b"", b"\0\0", b"\0\0\0\0\5ab", message(b"") * 2, b"\0\xff\xff\xff\xff", b"\2" + message(b"")[1:])
    async for number in attacker.paced(attacker.share(4200), rate=700):
        headers = grpc(rpc(COLLECTIONS[number % len(COLLECTIONS)], "List"), bearer(attacker.token(role="none")))
        # Most have no message at all, which hangs best.
        body = bodies[number // 4 % len(bodies)] if number % 5 == 0 else b""
        await (await pool.get()).begin(headers, body)
    await attacker.hold()


async def endless_messages(attacker: Attacker) -> None:
    """Begins calls to known and unknown RPCs, and reflection, and never ends their bodies."""
    pool = Pool(attacker)
    names = (
        *(rpc(one, "List") for one in COLLECTIONS),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/unknown.v1.Service/Call",
    )
    async for number in attacker.paced(attacker.share(3000), rate=500):
        headers = grpc(names[number % len(names)], bearer(attacker.token(role="none")))
        await (await pool.get()).begin(headers, b"\0\0\0\1\0" + b"x" * 200, ends=False)
    await attacker.hold()


ATTACKS: Final = (
    Attack("NUL ids, gzipped", nul_ids),
    Attack("Structs of nulls, gzipped", struct_nulls, seconds=10),
    Attack("other bombs, gzipped", bombs, seconds=10),
    Attack("calls without a message", no_message),
    Attack("messages that never end", endless_messages),
)
