"""What the busiest calls may cost, in what can be counted: the table in docs/performance.md is the budget."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Final

import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing import Caller, Identity, TestDatabase, running_service, settings_for
from users_service.service import SERVICE

from bench.wire import Wire
from tests.protos import ROOT

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

PAGE: Final = ROOT / "docs" / "performance.md"
_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one call."""

    round_trips: int
    statements: int


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
    rows = re.findall(r"^\| (`\w+`[^|]*) \| (\d+) \| (\d+) \|$", table, re.MULTILINE)
    return {name: Cost(int(trips), int(statements)) for name, trips, statements in rows}


async def measure(call: Callable[[Users], Awaitable[object]], users: Users, wire: Wire) -> Cost:
    # The first call prepares statements.
    await call(users)
    wire.messages.clear()
    await call(users)
    return Cost(wire.round_trips, wire.statements)


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
    assert cost == allowed, (
        f"{name}: {cost}, and its budget is {allowed}. A connection is held for as long as a round trip takes: find"
        f" another way, or change the row of {PAGE.name} in the same commit and say there what is bought with it."
    )


def test_every_row_is_measured() -> None:
    assert budget().keys() == CALLS.keys()
