"""Watches through the edge of a whole mesh: what breaks, stops, stalls or comes in crowds loses nobody anything."""

import asyncio
import contextlib
import itertools
import os
import signal
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import grpc
import httpx
import psutil
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from ameide_client import AsyncClient, RetryPolicy, errors

from tests.e2e.line import Line
from tests.e2e.started import token
from tools.mesh import processes
from tools.secrets import identity
from tools.topology import Mesh

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

# The start of the mesh is the first test's.
pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Form:
    """How much is made to break: the short form is part of `make test`, the long one is `make chaos`."""

    changes: int
    cuts: int
    restarts: Sequence[signal.Signals]


SHORT: Final = Form(300, 5, [signal.SIGKILL])
LONG: Final = Form(2000, 20, [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL])
FORM: Final = LONG if os.environ.get("CHAOS") == "long" else SHORT


@pytest.fixture
def tenant() -> str:
    return f"t-{uuid.uuid4().hex[:16]}"


@pytest.fixture
async def users(mesh: Mesh) -> AsyncIterator["UserServiceAsyncStub"]:
    """The users service over one connection of its own to the edge."""
    async with connected(mesh) as channel:
        yield UserServiceStub(channel)


def connected(mesh: Mesh) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['edge http']}", options=options)


def client(mesh: Mesh, tenant: str, url: str = "") -> AsyncClient:
    bearer = token(mesh, tenant, "admin")
    return AsyncClient(url or mesh.url, token=bearer, retry=RetryPolicy(first_pause_seconds=0.02))


def metadata(mesh: Mesh, tenant: str, subject: str = "ada") -> tuple[tuple[str, str], ...]:
    bearer = identity.mint(mesh.issuer, sub=subject, tenant=tenant, roles=["admin"])
    return (("authorization", f"Bearer {bearer}"),)


def process_of(mesh: Mesh, name: str) -> psutil.Process:
    return dict(processes.pids(mesh))[name]


async def until(fact: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.02)


async def write(api: AsyncClient, changes: int, done: list[tuple[str, str]]) -> None:
    """Makes ``changes`` to five users, one after the other; notes id and etag of each as it is answered."""

    async def insist(call: Callable[[str], Any]) -> pb.User:
        key = str(uuid.uuid4())
        while True:
            with contextlib.suppress(errors.UnavailableError, errors.DeadlineExceededError):
                user: pb.User = await call(key)
                done.append((user.id, user.etag))
                return user

    def create(key: str) -> Any:
        user = pb.User(display_name="new", email=f"{uuid.uuid4()}@example.com")
        return api.users.create(user, idempotency_key=key)

    def rename(user: pb.User, number: int) -> Callable[[str], Any]:
        renamed = pb.User(id=user.id, display_name=f"name {number}")
        return lambda key: api.users.update(renamed, update_mask=["display_name"], idempotency_key=key)

    def delete(user: pb.User, key: str) -> Any:
        return api.users.delete(user.id, idempotency_key=key)

    held = [await insist(create) for _ in range(5)]
    for number, user in zip(range(changes - 10), itertools.cycle(held), strict=False):
        await insist(rename(user, number))
    for user in held:
        await insist(partial(delete, user))


class TestLoss:
    async def test_of_connection_and_server_loses_no_change(self, mesh: Mesh, tenant: str) -> None:
        done: list[list[tuple[str, str]]] = [[], [], [], []]
        seen: list[tuple[str, str]] = []
        writers: list[asyncio.Task[None]] = []
        marks = [FORM.changes * (number + 1) // (FORM.cuts + 1) for number in range(FORM.cuts)]
        kills = {
            FORM.changes * (number + 1) // (len(FORM.restarts) + 1): how for number, how in enumerate(FORM.restarts)
        }
        async with Line.to(mesh.ports["edge http"]) as line, client(mesh, tenant, line.url) as reader:
            async with client(mesh, tenant) as api, reader.users.watch() as watch:
                following = asyncio.ensure_future(anext(watch))
                await until(lambda: watch.resume_token)
                writers = [asyncio.create_task(write(api, FORM.changes // len(done), one)) for one in done]
                gone = 0
                while gone < 5 * len(done):
                    change = await following
                    seen.append((change.resource.id, change.resource.etag))
                    gone += change.kind == "deleted"
                    if len(seen) in marks:
                        line.cut()
                    if how := kills.get(len(seen)):
                        process_of(mesh, "users").send_signal(how)
                    following = asyncio.ensure_future(anext(watch))
                following.cancel()
                await asyncio.gather(*writers)
            assert line.cuts == FORM.cuts
        assert versions(seen) == versions(itertools.chain(*done))


def versions(changes: Any) -> dict[str, list[str]]:
    """Returns what happened to each user, in order; what came again counts once."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for user_id, etag in changes:
        found[user_id][etag] = None
    return {user_id: list(etags) for user_id, etags in found.items()}


class TestDrain:
    async def test_ends_streams_before_the_process_and_they_go_on_after_it(
        self, mesh: Mesh, tenant: str, users: "UserServiceAsyncStub"
    ) -> None:
        async with contextlib.AsyncExitStack() as stack:
            others = [UserServiceStub(await stack.enter_async_context(connected(mesh))) for _ in range(4)]
            crowds = await asyncio.gather(*(opened(stub, mesh, tenant, 100) for stub in (users, *others)))
            calls = list(itertools.chain(*crowds))
            leaving = process_of(mesh, "users")
            leaving.terminate()
            # Whom the service has not told within 3 s (`DRAIN_SECONDS`) it cuts off, without these last words.
            async with asyncio.timeout(30):
                lasts = await asyncio.gather(*(call.read() for call in calls))
                codes = {await call.code() for call in calls}
        assert len(lasts) == 500
        assert {one.error.code for one in lasts} == {grpc.StatusCode.UNAVAILABLE.value[0]}
        assert all(one.resume_token for one in lasts)
        assert codes == {grpc.StatusCode.UNAVAILABLE}
        # Nothing keeps the process any longer.
        await until(lambda: not leaving.is_running() or leaving.status() == psutil.STATUS_ZOMBIE, 30)
        async with client(mesh, tenant) as api:
            created: pb.User | None = None
            while created is None:
                with contextlib.suppress(errors.UnavailableError):
                    created = await api.users.create(pb.User(display_name="Ada", email="ada@example.com"))
            for last in (lasts[0], lasts[-1]):
                async with api.users.watch(resume_token=last.resume_token) as watch:
                    assert (await anext(watch)).resource == created


async def opened(users: "UserServiceAsyncStub", mesh: Mesh, tenant: str, count: int) -> list[Any]:
    """Opens watches of several callers, as fast as the edge lets them, and waits until each is current."""
    callers = [metadata(mesh, tenant, f"caller-{number}") for number in range(10)]

    async def one(number: int) -> Any:
        while True:
            call: Any = users.WatchUsers(pb.WatchUsersRequest(), metadata=callers[number % len(callers)])
            try:
                first = await call.read()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                await asyncio.sleep(0.5)  # as the answer asks
            else:
                assert first.WhichOneof("event") == "bookmark"
                return call

    return await asyncio.gather(*map(one, range(count)))


class TestCrowd:
    async def test_of_a_thousand_on_one_connection_hears_of_a_change(
        self, mesh: Mesh, tenant: str, users: "UserServiceAsyncStub"
    ) -> None:
        calls = await opened(users, mesh, tenant, 1000)
        beyond: Any = users.WatchUsers(pb.WatchUsersRequest(), metadata=metadata(mesh, tenant))
        waits = asyncio.ensure_future(beyond.read())
        async with client(mesh, tenant) as api:
            created = await api.users.create(pb.User(display_name="Ada", email="ada@example.com"))
            messages = await asyncio.gather(*(call.read() for call in calls))
            assert all(one.created == created for one in messages)
            # The connection is full, and good: the next stream begins when another ends.
            assert not waits.done()
            calls[0].cancel()
            assert (await waits).WhichOneof("event") == "bookmark"
            await api.users.delete(created.id)
            assert (await calls[1].read()).deleted.id == created.id
        for call in (*calls, beyond):
            call.cancel()

    async def test_that_comes_and_goes_leaves_the_streams_of_others_alone(
        self, mesh: Mesh, tenant: str, users: "UserServiceAsyncStub"
    ) -> None:
        async with client(mesh, tenant) as api, api.users.watch() as other:
            following = asyncio.ensure_future(anext(other))
            await until(lambda: other.resume_token)
            (own,) = await opened(users, mesh, tenant, 1)
            for _ in range(6):
                for call in await opened(users, mesh, tenant, 50):
                    call.cancel()
            created = await api.users.create(pb.User(display_name="Ada", email="ada@example.com"))
            assert (await own.read()).created == created
            assert (await following).resource == created
            own.cancel()


def memory(mesh: Mesh, name: str) -> int:
    """Returns what a process holds, in bytes."""
    return int(process_of(mesh, name).memory_info().rss)


SMALL: Final = [
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 65_536),
    ("grpc.use_local_subchannel_pool", 1),
]
"""A client that takes nothing ahead of its reader: gRPC's own windows grow to megabytes."""


class TestStalledReader:
    async def test_costs_little_and_is_told_to_resume(self, mesh: Mesh, tenant: str) -> None:
        labels = {f"k{number}": "v" * 255 for number in range(64)}
        async with client(mesh, tenant) as api:
            ids: list[str] = []
            for _ in range(4):
                many = [
                    pb.User(display_name="A", email=f"{uuid.uuid4()}@example.com", labels=labels) for _ in range(50)
                ]
                batch = await api.users.batch_create([pb.CreateUserRequest(user=user) for user in many])
                ids += [user.id for user in batch.users]
            before = memory(mesh, "users"), memory(mesh, "edge")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['edge http']}", options=SMALL) as channel:
                users: UserServiceAsyncStub = UserServiceStub(channel)
                request = pb.WatchUsersRequest(initial_state=True)
                calls: list[Any] = [users.WatchUsers(request, metadata=metadata(mesh, tenant)) for _ in range(5)]
                firsts = [await call.read() for call in calls]
                # Each would have been sent 3.3 MB, had they been read.
                await until(lambda: open_streams(mesh) == 0)
                grown = memory(mesh, "users") - before[0], memory(mesh, "edge") - before[1]
                assert max(grown) < 30 * 1024 * 1024, grown
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    while await calls[0].read() is not grpc.aio.EOF:
                        pass
                assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert dict(tuple(raised.value.trailing_metadata() or ()))["error-type"] == "SLOW_READER"
            # What was read and what is read from there on is everything.
            async with api.users.watch(resume_token=firsts[1].resume_token, initial_state=True) as watch:
                rest = {(await anext(watch)).resource.id for _ in range(len(ids) - 1)}
            assert rest | {firsts[1].created.id} == set(ids)


def open_streams(mesh: Mesh) -> float:
    """Returns how many streams the users service has open."""
    text = httpx.get(f"http://127.0.0.1:{mesh.ports['users operations']}/metrics", verify=False).text
    (line,) = (line for line in text.splitlines() if line.startswith("rpc_server_open_streams "))
    return float(line.split()[1])
