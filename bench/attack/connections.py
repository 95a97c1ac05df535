"""Connections that are opened and kept."""

import asyncio
import contextlib
from typing import Final

from bench.attack.attacker import Attack, Attacker, Connection
from bench.attack.http2 import HEADERS, PREFACE, SETTINGS, block, frame, get

_SILENT: Final = b""
_HALF_REQUEST: Final = b"GET /v1/users HTTP/1.1\r\nhost: x\r\n"
_HALF_HEADERS: Final = PREFACE + frame(SETTINGS) + frame(HEADERS, block(get("/v1/users")), flags=0, stream=1)


async def _occupy(attacker: Attacker, most: int, first: bytes) -> list[Connection]:
    held: list[Connection] = []
    async for _ in attacker.paced(attacker.share(most), rate=1500):
        attacker.cost.calls += 1
        try:
            connection = await attacker.connect()
        except (OSError, TimeoutError):
            attacker.cost.answers["refused"] += 1
            continue
        held.append(connection)
        if first:
            await connection.send(first)
    return held


async def _count_closed(attacker: Attacker, held: list[Connection]) -> None:
    await attacker.hold()
    for connection in held:
        attacker.cost.answers["closed" if connection.reader.at_eof() else "kept"] += 1


async def idle(attacker: Attacker) -> None:
    """Opens twelve thousand connections and sends nothing."""
    await _count_closed(attacker, await _occupy(attacker, 12_000, _SILENT))


async def idle_http2(attacker: Attacker) -> None:
    """Opens twelve thousand HTTP/2 connections, for which the edge has no room, and makes no call."""
    await _count_closed(attacker, await _occupy(attacker, 12_000, PREFACE + frame(SETTINGS)))


async def slow_headers(attacker: Attacker) -> None:
    """Sends the headers of a request over HTTP/1.1 line by line and never the last one."""
    held = await _occupy(attacker, 1000, _HALF_REQUEST)
    async for number in attacker.paced(20_000, rate=1000):
        if held:
            await held[number % len(held)].send(b"x-%d: 1\r\n" % number)


async def half_headers(attacker: Attacker) -> None:
    """Sends HEADERS of HTTP/2 that are never finished."""
    await _count_closed(attacker, await _occupy(attacker, 1000, _HALF_HEADERS))


async def open_and_close(attacker: Attacker) -> None:
    """Opens connections and closes them at once."""
    async for _ in attacker.paced(8000, rate=1000):
        attacker.cost.calls += 1
        with contextlib.suppress(OSError, TimeoutError):
            connection = await attacker.connect()
            await connection.send(PREFACE)
            connection.close()
    await asyncio.sleep(0)


ATTACKS: Final = (
    Attack("idle connections", idle, seconds=10),
    Attack("idle HTTP/2 connections", idle_http2, seconds=10),
    Attack("slow headers", slow_headers, seconds=10),
    Attack("half HEADERS", half_headers, seconds=10),
    Attack("connections opened and closed", open_and_close),
)
