"""Frames of HTTP/2 that cost their sender nothing: its connection ends or nothing is kept, and nobody else notices."""

import asyncio
from collections.abc import Mapping
from typing import Final

from bench.attack.frames import FLOODS
from bench.attack.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    bearer,
    block,
    frame,
    get,
)
from tests.e2e.edge.backend import Backend
from tests.e2e.edge.plugin import Edge, Issuer
from tests.security.sockets import MIB, connected, head
from tests.security.test_held_bodies import most_held, others_served

BURSTS: Final = 100
RESETS: Final = 3000
SECONDS: Final = 20
CANCEL: Final = (8).to_bytes(4, "big")
CROWD: Final = 500
"""Requests that the edge reads at once: 32 KiB."""
HELD: Final = 4 * MIB
"""Less than what each of them sends, or unpacks to."""


async def flood(edge: Edge, address: str, bursts: list[bytes]) -> bool:
    """Sends bursts one after the other, and returns whether the edge has closed the connection."""
    async with connected(edge, 1, address) as (offender,):
        await offender.send(PREFACE + frame(SETTINGS))
        for burst in bursts:
            if not await offender.send(burst):
                break
        await asyncio.wait([asyncio.create_task(offender.closed())], timeout=2)
        return offender.is_closed


async def flooded(edge: Edge, floods: Mapping[str, list[bytes]]) -> set[str]:
    """Returns which of the floods, all at once, end their connections."""
    async with asyncio.timeout(SECONDS):
        sending = (flood(edge, f"127.0.2.{number}", bursts) for number, bursts in enumerate(floods.values(), 1))
        ended = await asyncio.gather(*sending)
    return {kind for kind, is_closed in zip(floods, ended, strict=True) if is_closed}


async def test_end_the_connection_of_their_sender(edge: Edge, issuer: Issuer, backend: Backend) -> None:
    token = bearer(issuer.token(sub="hostile", tenant_id="hostile"))
    body = frame(HEADERS, block(get("/v1/users", token, method="POST")), flags=END_HEADERS, stream=1)
    call = block(get("/v1/me", token))
    resets = [
        frame(HEADERS, call, flags=END_HEADERS | END_STREAM, stream=stream) + frame(RST_STREAM, CANCEL, stream=stream)
        for stream in range(1, 2 * RESETS, 2)
    ]
    small = frame(CONTINUATION, block([("x", "y")]), stream=1)
    floods = {
        kind: [FLOODS[kind] * 2000] * BURSTS for kind in ("PING", "SETTINGS", "PRIORITY", "WINDOW_UPDATE", "RST_STREAM")
    } | {
        "empty DATA": [body, *[frame(DATA, stream=1) * 1000] * BURSTS],
        # CVE-2024-27316 and CVE-2023-44487.
        "CONTINUATION": [frame(HEADERS, call, stream=1), *[small * 100] * BURSTS],
        "rapid reset": [b"".join(resets[start : start + 30]) for start in range(0, RESETS, 30)],
    }
    async with others_served(edge, issuer):
        assert await flooded(edge, floods) == set(floods)


def ended_streams(received: bytes) -> int:
    """Counts the frames that end a stream."""
    count = 0
    while len(received) >= 9:
        length, kind, flags = int.from_bytes(received[:3], "big"), received[3], received[4]
        count += kind in {DATA, HEADERS} and bool(flags & END_STREAM)
        received = received[9 + length :]
    return count


async def ahead_of_others(edge: Edge) -> int:
    """Asks hundreds of times at once, then as eight others; returns how many answers the many got before the last."""
    others = connected(edge, 8)
    async with connected(edge, 1, "127.0.2.1") as (many,), others as few:
        wrong = bearer("a.b.c")
        calls = [
            frame(HEADERS, block(get("/v1/me", wrong)), flags=END_HEADERS | END_STREAM, stream=stream)
            for stream in range(1, 2 * CROWD, 2)
        ]
        await many.send(PREFACE + frame(SETTINGS))
        await many.send(b"".join(calls))
        for one in few:
            await one.send(head("GET", "/v1/me", ()))
        async with asyncio.timeout(SECONDS):
            while not all(one.received for one in few):
                await asyncio.sleep(0)
        return ended_streams(many.received)


async def test_of_requests_let_others_have_their_turn(edge: Edge) -> None:
    """A worker of the edge serves one connection after the other, and would answer all that one has sent at once."""
    # A client that loses its processor between two of its own calls sees the others late: one round is enough.
    assert min([await ahead_of_others(edge) for _ in range(3)]) < CROWD / 10


async def test_leave_nothing_behind(edge: Edge, issuer: Issuer, backend: Backend) -> None:
    """What names no request that is served, and unpacks to more than it is."""
    call = block(get("/v1/users/hostile", bearer(issuer.token(sub="hostile", tenant_id="hostile"))))
    large = frame(CONTINUATION, block([("x", "x" * FRAME_BYTES)])[:FRAME_BYTES], stream=1)
    # A literal with incremental index becomes entry 62, which one byte names.
    bomb = call + b"\x40\x01x\x7f\xa1\x1e" + b"x" * 4000 + b"\xbe" * 8000
    floods = {
        "unknown frames": [FLOODS["unknown frames"] * 2000] * BURSTS,
        "CONTINUATION": [frame(HEADERS, call, stream=1), *[large] * 4 * BURSTS],
        "HPACK": [
            frame(HEADERS, bomb, flags=END_HEADERS | END_STREAM, stream=stream) for stream in range(1, 2 * BURSTS, 2)
        ],
    }
    async with others_served(edge, issuer):
        assert await most_held(edge, flooded(edge, floods)) < HELD
    assert "hostile" not in {getattr(one.request, "id", "") for one in backend.calls}
