"""The polite tenant: fifty calls a second over all services, reads and writes, REST and gRPC. Each must succeed."""

import asyncio
import importlib
import itertools
import ssl
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

import grpc
import httpx

from bench.attack.services import COLLECTIONS, rpc
from tools.secrets import identity
from tools.topology import Mesh

RATE: Final = 50
"""Calls a second."""
PATIENCE_SECONDS: Final = 10

_TOKEN_SECONDS: Final = 3600
_REQUIRED: Final[dict[str, dict[str, Any]]] = {"users": {"email": "{}@example.com"}, "agents": {"model": "model-1"}}
"""What Create needs beside a name."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the polite tenant."""

    due: float
    """When it should have begun; a call that could not begin in time counts the wait."""
    milliseconds: float
    problem: str
    """Why it failed; empty if it did not."""


@dataclass
class Polite:
    """A tenant that nobody may disturb."""

    mesh: Mesh
    tenant: str
    calls: list[Call] = field(default_factory=list)
    _kept: dict[str, str] = field(default_factory=dict)
    """An id of each collection that is read and changed."""
    _made: dict[str, deque[str]] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def __aenter__(self) -> Self:
        token = identity.mint(
            self.mesh.issuer, sub="polly", tenant=self.tenant, roles=["admin"], ttl_seconds=_TOKEN_SECONDS
        )
        self._metadata = (("authorization", f"Bearer {token}"),)
        options: dict[str, Any] = {
            "base_url": self.mesh.url,
            "headers": dict(self._metadata),
            "timeout": PATIENCE_SECONDS,
            # One context for both: to make one takes twenty milliseconds.
            "verify": ssl.create_default_context(),
        }
        self._rest = httpx.AsyncClient(**options)
        # A connection for each call: what keeps newcomers out must show.
        self._newcomer = httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0), **options)
        # No retry may hide a failure.
        address = f"127.0.0.1:{self.mesh.ports['edge http']}"
        self._channel = grpc.aio.insecure_channel(address, options=(("grpc.enable_retries", 0),))
        for collection in COLLECTIONS:
            self._made[collection] = deque()
            await self.create(collection)
            self._kept[collection] = self._made[collection].popleft()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._rest.aclose()
        await self._newcomer.aclose()
        await self._channel.close()

    async def run(self, ended: asyncio.Event) -> None:
        """Makes calls, one every 20 ms, until ``ended``; then waits for those under way."""
        begun = time.monotonic()
        rounds = itertools.cycle(itertools.product(HABITS, COLLECTIONS))
        async with asyncio.TaskGroup() as group:
            for number, (habit, collection) in enumerate(rounds):
                due = begun + number / RATE
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                if ended.is_set():
                    return
                group.create_task(self._one(habit(self, collection), due, f"{habit.__name__} {collection}"))

    async def _one(self, call: Awaitable[None], due: float, name: str) -> None:
        problem = ""
        try:
            await call
        except httpx.HTTPStatusError as error:
            problem = f"{name}: {error.response.status_code} {error.response.headers.get('error-type', '')}".strip()
        except grpc.aio.AioRpcError as error:
            problem = f"{name}: {error.code().name}"
        except httpx.HTTPError as error:
            problem = f"{name}: {type(error).__name__}"
        self.calls.append(Call(due, (time.monotonic() - due) * 1000, problem))

    def between(self, begin: float, end: float) -> list[Call]:
        """Returns the calls that were due in this time."""
        return [call for call in self.calls if begin <= call.due < end]

    # -- habits, each for one collection

    async def get(self, collection: str) -> None:
        await self._ok(self._rest.get(f"/v1/{collection}/{self._kept[collection]}"))

    async def get_as_newcomer(self, collection: str) -> None:
        await self._ok(self._newcomer.get(f"/v1/{collection}/{self._kept[collection]}"))

    async def list(self, collection: str) -> None:
        await self._ok(self._rest.get(f"/v1/{collection}", params={"pageSize": 10}))

    async def rename(self, collection: str) -> None:
        body = {"displayName": f"Polly {next(self._numbers)}"}
        path = f"/v1/{collection}/{self._kept[collection]}"
        await self._ok(self._rest.patch(path, params={"updateMask": "displayName"}, json=body))

    async def create(self, collection: str) -> None:
        number = f"{self.tenant}-{next(self._numbers)}"
        required = {name: text.format(number) for name, text in _REQUIRED.get(collection, {}).items()}
        answer = await self._ok(self._rest.post(f"/v1/{collection}", json={"displayName": number, **required}))
        self._made[collection].append(answer.json()["id"])

    async def delete(self, collection: str) -> None:
        if self._made[collection]:
            await self._ok(self._rest.delete(f"/v1/{collection}/{self._made[collection].popleft()}"))

    async def get_by_grpc(self, collection: str) -> None:
        await self._grpc(collection, "Get", id=self._kept[collection])

    async def list_by_grpc(self, collection: str) -> None:
        await self._grpc(collection, "List", page_size=10)

    async def _grpc(self, collection: str, verb: str, **fields: Any) -> None:
        path = rpc(collection, verb)
        module = importlib.import_module(f"ameide.{collection[:-1]}.v1.{collection[:-1]}_pb2")
        request = getattr(module, f"{path.rsplit('/', 1)[1]}Request")(**fields)
        call: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(path)
        await call(request.SerializeToString(), metadata=self._metadata, timeout=PATIENCE_SECONDS)

    async def _ok(self, call: Awaitable[httpx.Response]) -> httpx.Response:
        return (await call).raise_for_status()


Habit = Callable[[Polite, str], Awaitable[None]]
HABITS: Final[tuple[Habit, ...]] = (
    *(Polite.get, Polite.create, Polite.list_by_grpc, Polite.get_by_grpc, Polite.rename, Polite.list),
    *(Polite.get_as_newcomer, Polite.get_by_grpc, Polite.delete, Polite.get),
)


def p99(calls: Iterable[Call]) -> float:
    """Returns the 99th percentile in milliseconds; 0 without calls."""
    times = sorted(call.milliseconds for call in calls)
    return times[max(0, -(-len(times) * 99 // 100) - 1)] if times else 0.0


def failures(calls: Iterable[Call]) -> Counter[str]:
    """Counts the calls that failed, by what they were and why."""
    return Counter(call.problem for call in calls if call.problem)
