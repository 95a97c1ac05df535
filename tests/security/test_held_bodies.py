"""What a client makes the edge hold: bodies that never end, with and without a credential."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Final

from tests.contract.built_edge import OPEN
from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge, Issuer
from tests.e2e.edge.test_memory import allocated
from tests.security.sockets import MIB, Raw, connected, head, send_unfinished

CONNECTIONS: Final = 104
EACH: Final = 20
SMALL: Final = 16 * MIB
SHARE: Final = 64 * MIB
"""What a principal may send at once."""
SECONDS: Final = 30
FOREIGN: Final = (("origin", "https://evil.example"), ("access-control-request-method", "POST"))
JSON: Final = (("content-type", "application/json"),)
GRPC: Final = (("content-type", "application/grpc"), ("te", "trailers"))
ANYBODY: Final = (
    *(("GET", path, ()) for path in OPEN),
    *(("POST", path, JSON) for path in OPEN),
    ("OPTIONS", "/v1/users", FOREIGN),
    ("OPTIONS", "/v1/users", (("origin", "http://localhost"), ("access-control-request-method", "POST"))),
    ("OPTIONS", f"{USERS}/CreateUser", (*FOREIGN, *GRPC)),
    ("OPTIONS", "/docs", ()),
    ("POST", "/v1/users", JSON),
    ("POST", f"{USERS}/CreateUser", GRPC),
    ("POST", "/nowhere", JSON),
)


@asynccontextmanager
async def others_served(edge: Edge, issuer: Issuer) -> AsyncIterator[None]:
    """Somebody else calls all the time, and every call is good."""
    over = False

    async def call() -> list[int]:
        statuses = []
        headers = {"authorization": f"Bearer {issuer.token(sub='polite', tenant_id='polite')}"}
        async with edge.client(headers=headers) as client:
            while not over:
                statuses.append((await client.get("/v1/me")).status_code)
        return statuses

    calling = asyncio.create_task(call())
    try:
        yield
    finally:
        over = True
    statuses = await calling
    assert set(statuses) == {200}, statuses


async def most_held(edge: Edge, attack: Awaitable[object]) -> int:
    """Returns by how many bytes the heap grew at most while the attack lasts, at most so many seconds."""
    before, most = await allocated(edge), 0
    attacking = asyncio.ensure_future(attack)
    async with asyncio.timeout(SECONDS):
        while not attacking.done():
            most = max(most, await allocated(edge) - before)
            await asyncio.wait([attacking], timeout=0.05)
    return max(most, await allocated(edge) - before)


def unfinished(number: int, method: str, path: str, headers: Iterable[tuple[str, str]]) -> tuple[bytes, bool]:
    """Returns a head, and whether its body comes in chunks; every second body announces its length."""
    chunked = bool(number % 2)
    length = ("transfer-encoding", "chunked") if chunked else ("content-length", str(10 * MIB))
    return head(method, path, (*headers, length)), chunked


async def attack(connections: Iterable[Raw], method: str, path: str, headers: Iterable[tuple[str, str]]) -> None:
    sending = [
        asyncio.create_task(send_unfinished(one, start, chunked=chunked))
        for number, one in enumerate(connections)
        for start, chunked in [unfinished(number, method, path, headers)]
    ]
    # A peer that neither reads nor closes blocks its sender.
    await asyncio.wait(sending, timeout=5)
    for one in sending:
        one.cancel()


class TestWithoutACredential:
    async def test_nothing_is_held(self, edge: Edge, issuer: Issuer, backend: Backend) -> None:
        """Every open path and some closed ones, each from an address with a bucket of its own."""
        # More at once would keep the test itself busy, not the edge.
        turns = asyncio.Semaphore(5)

        async def one_kind(number: int, method: str, path: str, headers: Iterable[tuple[str, str]]) -> None:
            async with turns, connected(edge, EACH, f"127.0.1.{number + 1}") as connections:
                await attack(connections, method, path, headers)
                said = {one.status for one in connections if one.status}
                assert said, (method, path)
                assert said <= {200, 400, 401, 403, 404, 405, 413, 429}, (method, path)

        async with others_served(edge, issuer):
            kinds = asyncio.gather(*(one_kind(number, *kind) for number, kind in enumerate(ANYBODY)))
            assert await most_held(edge, kinds) < SMALL


class TestWithACredential:
    async def test_one_principal_holds_its_share(self, edge: Edge, issuer: Issuer, backend: Backend) -> None:
        credential = ("authorization", f"Bearer {issuer.token(sub='greedy', tenant_id='greedy')}")
        async with others_served(edge, issuer), connected(edge, CONNECTIONS) as connections:
            assert await most_held(edge, attack(connections, "POST", "/v1/users", (*JSON, credential))) < SHARE + SMALL
            refused = [one.status for one in connections if one.status]
            assert set(refused) == {429}
            assert len(refused) > CONNECTIONS // 2
            # A refusal has the one shape of errors.
            assert b"error-type: RATE_LIMITED\r\n" in next(one for one in connections if one.status).received
        # Its own small calls are refused until its share is back; its tenant's other principals go on.
