"""What the busiest calls may cost, in what can be counted: the table in docs/performance.md is the budget."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing import Caller, Identity, TestDatabase, running_service, settings_for
from structlog.testing import capture_logs
from users_service.service import SERVICE

from bench.wire import Wire
from tests.protos import ROOT

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

PAGE: Final = ROOT / "docs" / "performance.md"
TIMES: Final = 3
ROUNDS: Final = 20
"""The cheapest one counts: what a service does beside its calls, every second, can only add to the others."""
SLACK: Final = 0.8
"""A call that costs less than this part of its budget has a budget that protects nothing."""

# Neither the event loop, whose turns depend on when bytes arrive, nor the client of the test.
_NOT_OURS: Final = re.compile(
    rf"^{re.escape(str(ROOT))}/tests/|/(asyncio|concurrent/futures)/|/(selectors|threading)\.py$|/grpc/aio/_(base_)?c"
)
_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call."""

    round_trips: float
    statements: float
    python_calls: float


class Users:
    """The calls, as one tenant makes them."""

    def __init__(self, users: UserServiceAsyncStub, caller: Caller) -> None:
        self._users = users
        self._metadata = caller.metadata
        self._ids: list[str] = []
        self._user = pb.User()

    async def prepare(self) -> Users:
        """Stores a hundred users."""
        requests = [pb.CreateUserRequest(user=a_user()) for _ in range(100)]
        stored = await self._users.BatchCreateUsers(
            pb.BatchCreateUsersRequest(requests=requests), metadata=self._metadata
        )
        self._ids, self._user = [user.id for user in stored.users], stored.users[0]
        return self

    async def get(self) -> object:
        return await self._users.GetUser(pb.GetUserRequest(id=self._ids[0]), metadata=self._metadata)

    async def list(self) -> object:
        page = await self._users.ListUsers(pb.ListUsersRequest(page_size=50), metadata=self._metadata)
        assert len(page.users) == 50
        return page

    async def batch_get(self) -> object:
        return await self._users.BatchGetUsers(pb.BatchGetUsersRequest(ids=self._ids), metadata=self._metadata)

    async def create(self) -> object:
        return await self._users.CreateUser(pb.CreateUserRequest(user=a_user()), metadata=self._metadata)

    async def create_with_key(self) -> object:
        metadata = (*self._metadata, ("idempotency-key", f"key-{next(_numbers)}"))
        return await self._users.CreateUser(pb.CreateUserRequest(user=a_user()), metadata=metadata)

    async def create_again(self) -> object:
        metadata = (*self._metadata, ("idempotency-key", "same"))
        user = pb.User(display_name="Ada", email="ada@example.com")
        return await self._users.CreateUser(pb.CreateUserRequest(user=user), metadata=metadata)

    async def update(self) -> object:
        self._user.display_name = f"User {next(_numbers)}"
        request = pb.UpdateUserRequest(user=self._user)
        self._user = await self._users.UpdateUser(request, metadata=self._metadata)
        return self._user


CALLS: Final[Mapping[str, Callable[[Users], Awaitable[object]]]] = {
    "`GetUser`": Users.get,
    "`ListUsers`, 50": Users.list,
    "`BatchGetUsers`, 100": Users.batch_get,
    "`CreateUser`": Users.create,
    "`CreateUser` with an idempotency key": Users.create_with_key,
    "`CreateUser`, replayed": Users.create_again,
    "`UpdateUser` with an etag": Users.update,
}
"""What is measured, by its row of the table."""


def a_user() -> pb.User:
    number = next(_numbers)
    return pb.User(display_name=f"User {number}", email=f"user{number}@example.com", labels={"team": "a"})


def budget() -> dict[str, Cost]:
    """Reads the table."""
    _, _, section = PAGE.read_text().partition("\n## The budget\n")
    table = section.partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+`[^|]*) \| (\d+) \| (\d+) \| ([\d,]+) \|$", table, re.MULTILINE)
    return {name: Cost(int(trips), int(own), int(calls.replace(",", ""))) for name, trips, own, calls in rows}


@contextmanager
def profiled() -> Iterator[list[int]]:
    """Counts the calls of Python and C functions that Python code makes in this thread, in tasks that begin here."""
    seen = [0]
    ours: dict[str, bool] = {}
    # Those of gRPC's calls begin later. What others do meanwhile grows with the time that a busy machine takes.
    background = asyncio.all_tasks()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call") and asyncio.current_task() not in background:
            name = frame.f_code.co_filename
            if name not in ours:
                ours[name] = not _NOT_OURS.search(name)
            seen[0] += ours[name]

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


async def measure(call: Callable[[Users], Awaitable[object]], users: Users, wire: Wire) -> Cost:
    costs = []
    for _ in range(ROUNDS):
        wire.messages.clear()
        # As an event is written depends on how its process is set up; here each costs the same.
        with capture_logs(), profiled() as seen:
            for _ in range(TIMES):
                await call(users)
        costs.append(Cost(wire.round_trips / TIMES, wire.statements / TIMES, seen[0] / TIMES))
    # The first round prepares statements and fills caches.
    return min(costs[1:], key=lambda cost: (cost.python_calls, cost.round_trips))


@pytest.fixture(scope="module")
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="module")
async def users(wire: Wire, users_database: TestDatabase, identity: Identity) -> AsyncIterator[UserServiceAsyncStub]:
    async with (
        wire.before(users_database.url) as url,
        running_service(SERVICE, settings_for(replace(users_database, url=url), identity)) as service,
    ):
        yield UserServiceStub(service.channel)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_keeps_to_its_budget(name: str, users: UserServiceAsyncStub, admin: Caller, wire: Wire) -> None:
    allowed = budget()[name]
    cost = await measure(CALLS[name], await Users(users, admin).prepare(), wire)
    told = f"{name}: {cost}, and its budget is {allowed}"
    assert (cost.round_trips, cost.statements) == (allowed.round_trips, allowed.statements), (
        f"{told}. Each round trip is a wait, and a connection held for as long: find another way, or change the row of"
        f" {PAGE.name} in the same commit and say there what is bought with it; if it has become less, lower the row."
    )
    assert cost.python_calls <= allowed.python_calls, (
        f"{told}. Do once what is done per call (docs/performance.md, Where the CPU goes), or raise the row in the same"
        " commit, with what it is spent on."
    )
    assert cost.python_calls >= SLACK * allowed.python_calls, f"{told}. Well done: lower the row, so that it stays so."


def test_every_row_is_measured() -> None:
    assert budget().keys() == CALLS.keys()
