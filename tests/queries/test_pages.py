"""Walks through a list while it changes, over gRPC; and what a page token is good for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import uuid_utils
from ameide.user.v1 import service_account_pb2 as account_pb
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.settings import PaginationSettings
from api_common.testing import Caller, Identity, TestDatabase, refused, running_service, settings_for
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from users_service.service import SERVICE

if TYPE_CHECKING:
    from ameide.user.v1.service_account_pb2_grpc import ServiceAccountServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ORDERS = ["", "create_time", "display_name", "display_name desc", "email", "displayName, create_time desc"]
NAMES = st.sampled_from(["a", "A", "b", "日"])
"""Few, so that ties are common."""
CHANGES = st.lists(
    st.tuples(st.just("create"), NAMES)
    | st.tuples(st.sampled_from(["delete", "undelete", "label"]), st.integers(0, 9)),
    max_size=3,
)


class Walk:
    """A client that pages through the users of a tenant."""

    def __init__(self, users: UserServiceAsyncStub, caller: Caller, request: pb.ListUsersRequest) -> None:
        self._users, self._caller, self._request = users, caller, request
        self.seen: list[str] = []
        self.done = False

    async def turn_page(self) -> None:
        page = await self._users.ListUsers(self._request, metadata=self._caller.metadata)
        self.seen += [user.id for user in page.users]
        self._request.page_token = page.next_page_token
        self.done = not page.next_page_token


class TestWalk:
    # Shrinking a counter-example through a service would take minutes.
    @settings(
        max_examples=25,
        deadline=None,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        names=st.lists(NAMES, max_size=8),
        batches=st.lists(CHANGES, max_size=4),
        order=st.sampled_from(ORDERS),
        page_size=st.integers(1, 4),
        filtered=st.booleans(),
    )
    async def test_meets_each_user_that_stays_exactly_once(
        self,
        users: UserServiceAsyncStub,
        identity: Identity,
        names: list[str],
        batches: list[list[tuple[str, str | int]]],
        order: str,
        page_size: int,
        filtered: bool,
    ) -> None:
        caller = identity.caller(f"t-{uuid_utils.uuid7()}", "admin")
        ids = [await create(users, caller, name, number) for number, name in enumerate(names)]
        live, staying = set(ids), set(ids)
        text = "labels.kind = walker" if filtered else ""
        walk = Walk(users, caller, pb.ListUsersRequest(page_size=page_size, order_by=order, filter=text))
        for number, batch in enumerate(batches):
            if not walk.done:
                await walk.turn_page()
            for index, (verb, target) in enumerate(batch):
                id = ids[target] if isinstance(target, int) and target < len(ids) else None
                match verb:
                    case "create":
                        await create(users, caller, str(target), 100 + 10 * number + index)
                    case "label" if id in live:
                        user = pb.User(id=id, labels={"kind": "walker", "at": str(number)})
                        await users.UpdateUser(pb.UpdateUserRequest(user=user), metadata=caller.metadata)
                    case "delete" if id in live:
                        await users.DeleteUser(pb.DeleteUserRequest(id=id), metadata=caller.metadata)
                        live.discard(id)
                        staying.discard(id)
                    case "undelete" if id is not None and id not in live:
                        await users.UndeleteUser(pb.UndeleteUserRequest(id=id), metadata=caller.metadata)
                        live.add(id)
        while not walk.done:
            await walk.turn_page()
        assert len(walk.seen) == len(set(walk.seen))
        assert staying <= set(walk.seen)

    async def test_begins_after_what_was_just_written(self, users: UserServiceAsyncStub, identity: Identity) -> None:
        """Forty writers, each of which reads at once what it wrote, and that all the answered ones wrote."""
        caller, answered = identity.caller(f"t-{uuid_utils.uuid7()}", "admin"), set[str]()

        async def write_and_read(number: int) -> None:
            id = await create(users, caller, "a", number)
            answered.add(id)
            expected = set(answered)
            page = await users.ListUsers(pb.ListUsersRequest(page_size=100), metadata=caller.metadata)
            assert expected <= {user.id for user in page.users}
            assert (await users.GetUser(pb.GetUserRequest(id=id), metadata=caller.metadata)).id == id

        await asyncio.gather(*(write_and_read(number) for number in range(40)))
        assert len(answered) == 40


class TestToken:
    async def test_of_a_list_opens_no_other_list(
        self, users: UserServiceAsyncStub, accounts: ServiceAccountServiceAsyncStub, admin: Caller
    ) -> None:
        for number in range(2):
            await create(users, admin, "a", number)
        first = await users.ListUsers(pb.ListUsersRequest(page_size=1), metadata=admin.metadata)
        with refused(INVALID, "INVALID_PAGE_TOKEN"):
            request = account_pb.ListServiceAccountsRequest(page_size=1, page_token=first.next_page_token)
            await accounts.ListServiceAccounts(request, metadata=admin.metadata)

    async def test_lives_as_long_as_its_key(
        self, databases: Mapping[str, TestDatabase], identity: Identity, admin: Caller
    ) -> None:
        old, new = (Fernet.generate_key().decode() for _ in range(2))
        async with AsyncExitStack() as stack:
            before, between, after = [
                await stack.enter_async_context(sealing_with(databases["users"], identity, *keys))
                for keys in ((old,), (new, old), (new,))
            ]
            ids = [await create(before, admin, "a", number) for number in range(3)]
            sealed_before = await turn(before, admin, "")
            sealed_between = await turn(between, admin, sealed_before.next_page_token)
            sealed_after = await turn(after, admin, sealed_between.next_page_token)
            pages = [sealed_before, sealed_between, sealed_after]
            assert [user.id for page in pages for user in page.users] == ids[::-1]
            with refused(INVALID, "INVALID_PAGE_TOKEN") as refusal:
                await turn(after, admin, sealed_before.next_page_token)
            assert list(refusal.violations) == ["page_token"]


async def create(users: UserServiceAsyncStub, caller: Caller, name: str, number: int) -> str:
    user = pb.User(display_name=name, email=f"{number}@example.com", labels={"kind": "walker"})
    return (await users.CreateUser(pb.CreateUserRequest(user=user), metadata=caller.metadata)).id


async def turn(users: UserServiceAsyncStub, caller: Caller, token: str) -> pb.ListUsersResponse:
    return await users.ListUsers(pb.ListUsersRequest(page_size=1, page_token=token), metadata=caller.metadata)


@asynccontextmanager
async def sealing_with(database: TestDatabase, identity: Identity, *keys: str) -> AsyncIterator[UserServiceAsyncStub]:
    """Runs a users service whose page tokens are sealed with the first of ``keys``."""
    pagination = PaginationSettings(keys=tuple(SecretStr(key) for key in keys))
    async with running_service(SERVICE, replace(settings_for(database, identity), pagination=pagination)) as service:
        yield UserServiceStub(service.channel)
