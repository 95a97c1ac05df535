"""Bodies and answers that take long or never end."""

import asyncio
import contextlib
from itertools import cycle
from typing import Final

from bench.attack.attacker import Attack, Attacker
from bench.attack.http1 import Http1, bearer, head
from bench.attack.http2 import END_HEADERS, END_STREAM, HEADERS, Http2, block, frame, get, grpc, message
from bench.attack.http2 import bearer as bearer_h2
from bench.attack.services import COLLECTIONS, rpc

_LARGE: Final = 9 * 1024 * 1024
_OPEN: Final = (("OPTIONS", "/v1/users"), ("POST", "/docs"), ("GET", "/openapi.json"), ("POST", "/healthz"))
"""Paths that answer without a credential."""


async def _unfinished(attacker: Attacker, requests: tuple[tuple[str, str], ...], headers: dict[str, str]) -> None:
    """Sends nine of ten announced mebibytes on each of a hundred connections."""
    choice, body, held = cycle(requests), b" " * _LARGE, []
    async for _ in attacker.paced(attacker.share(104), rate=40):
        connection = await Http1.open(attacker)
        held.append(connection)
        method, path = next(choice)
        await connection.begin(method, path, headers, length=_LARGE + 1, part=body)
    await attacker.hold()


async def unfinished_anonymous(attacker: Attacker) -> None:
    """Holds unfinished bodies on open paths, without a credential."""
    await _unfinished(attacker, _OPEN, {"origin": "https://evil.example", "access-control-request-method": "POST"})


async def unfinished_known(attacker: Attacker) -> None:
    """Holds unfinished bodies with a good token."""
    requests = tuple(("POST", f"/v1/{one}") for one in COLLECTIONS)
    await _unfinished(attacker, requests, bearer(attacker.token()))


async def slow_bodies(attacker: Attacker) -> None:
    """Sends bodies byte by byte."""
    held = []
    headers = bearer(attacker.token())
    async for number in attacker.paced(attacker.share(500), rate=250):
        connection = await Http1.open(attacker)
        held.append(connection)
        await connection.begin("POST", f"/v1/{COLLECTIONS[number % len(COLLECTIONS)]}", headers, length=1000, part=b"{")
    async for number in attacker.paced(10_000, rate=500):
        await held[number % len(held)].connection.send(b" ")


async def slow_readers(attacker: Attacker) -> None:
    """Asks for pages over HTTP/2 with a window of nothing, and over HTTP/1.1 without reading."""
    await _fill(attacker)
    path = f"/v1/{COLLECTIONS[0]}?pageSize=1000"
    held: list[object] = []
    async for number in attacker.paced(attacker.share(40), rate=20):
        shut = await Http2.open(attacker, window=0)
        for _ in range(25):
            await shut.begin(get(path, bearer_h2(attacker.token())))
        connection = await attacker.connect()
        # A pipeline: the answers to all of it are for the edge to hold.
        await connection.send(head("GET", path, bearer(attacker.token())) * 10)
        held += [shut, connection, number]
    await attacker.hold()


async def unread_answers(attacker: Attacker) -> None:
    """Asks for pages over gRPC with a window of nothing: the edge leaves them in its connections to the service."""
    await _fill(attacker)
    headers = grpc(rpc(COLLECTIONS[0], "List"), bearer_h2(attacker.token()))
    opened = [await Http2.open(attacker, window=0) for _ in range(4)]
    async for number in attacker.paced(attacker.share(200), rate=100):
        await opened[number % len(opened)].begin(headers, message(b"\x08\xe8\x07"))
    await attacker.hold()


async def unread_pages(attacker: Attacker) -> None:
    """Asks for the largest open page without a credential and reads none of it."""
    opened = [await Http2.open(attacker, window=0) for _ in range(4)]
    async for number in attacker.paced(attacker.share(1500), rate=250):
        await opened[number % len(opened)].begin(get("/docs/swagger-ui-bundle.js"))
    await attacker.hold()


async def unread_refusals(attacker: Attacker) -> None:
    """Asks without a credential, a thousand times on each connection, and takes no byte of the refusals."""
    request, requests = block(get("/v1/me")), bytearray()
    for stream in range(1, 2000, 2):
        requests += frame(HEADERS, request, flags=END_STREAM | END_HEADERS, stream=stream)
    async for _ in attacker.paced(attacker.share(60), rate=100):
        # The edge may close connections meanwhile, or be too busy to take another.
        with contextlib.suppress(OSError, TimeoutError):
            await (await Http2.open(attacker, window=0)).send(bytes(requests))
            attacker.cost.calls += 1000
    await attacker.hold()


async def tiny_chunks(attacker: Attacker) -> None:
    """Sends bodies in chunks of a byte with long extensions, so that little body is much to parse."""
    headers = {**bearer(attacker.token()), "transfer-encoding": "chunked"}
    part = (b"1;" + b"x" * 60 + b"\r\n \r\n") * 200
    held = [await Http1.open(attacker) for _ in range(20)]
    for connection in held:
        attacker.cost.calls += 1
        await connection.connection.send(head("POST", f"/v1/{COLLECTIONS[0]}", headers))
    async for number in attacker.paced(4000, rate=600):
        await held[number % len(held)].connection.send(part)


async def _fill(attacker: Attacker) -> None:
    # The largest labels that a user may have.
    labels = {f"key-{number}": "x" * 255 for number in range(64)}
    text = ",".join(f'"{name}":"{value}"' for name, value in labels.items())
    connection = await Http1.open(attacker)
    async for number in attacker.paced(attacker.share(60), rate=100):
        body = f'{{"displayName":"Large","email":"large{number}-{id(connection)}@example.com","labels":{{{text}}}}}'
        await connection.call("POST", f"/v1/{COLLECTIONS[0]}", bearer(attacker.token()), body.encode())


async def large_pages(attacker: Attacker) -> None:
    """Reads pages of the largest rows, several at a time."""
    await _fill(attacker)

    async def read() -> None:
        connection = await Http1.open(attacker)
        async for _ in attacker.paced(200, rate=50):
            await connection.call("GET", f"/v1/{COLLECTIONS[0]}?pageSize=1000", bearer(attacker.token()))

    await asyncio.gather(*(read() for _ in range(6)))


ATTACKS: Final = (
    Attack("unfinished bodies, open paths", unfinished_anonymous),
    Attack("unfinished bodies, with a token", unfinished_known),
    Attack("slow bodies", slow_bodies),
    Attack("slow readers", slow_readers),
    Attack("unread answers, gRPC", unread_answers),
    Attack("unread pages, nobody", unread_pages),
    Attack("unread refusals, nobody", unread_refusals, seconds=10),
    Attack("bodies in tiny chunks", tiny_chunks),
    Attack("pages of the largest rows", large_pages),
)
