"""Large answers are paid for at a rate: who asks for more waits, or is refused, and nobody else is (ADR 44)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.authn import Principal
from api_common.errors import TooManyCallsError
from api_common.rpc import Shares
from api_common.settings import SharesSettings
from api_common.testing import refused, running_service, settings_for
from users_service.service import SERVICE

from services.users.tests.factories import create_user
from services.users.tests.test_shares import ADA, BOB, EVE, sharing, shown, until_shown
from tests.watching import watching

if TYPE_CHECKING:
    from api_common.testing import Caller, Identity, Statements, TestDatabase

S = grpc.StatusCode
MIB = 1024 * 1024


class Clock:
    """A clock that stands still."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestAnswers:
    async def test_beyond_a_share_are_paid_for_one_call_after_the_other(self) -> None:
        shares, clock = self._overdrawn(seconds=3)
        began, go_on = list[str](), asyncio.Event()

        async def call(name: str, principal: Principal) -> None:
            async with shares.turn(principal):
                began.append(name)
                await go_on.wait()

        clock.now += 1.99
        async with asyncio.TaskGroup() as calls:
            for name, principal in (("ada 1", ADA), ("ada 2", ADA), ("bob", BOB), ("eve", EVE)):
                calls.create_task(call(name, principal))
            # Each is paid for after 10 ms of this clock, which stands still, so the second waits for the first.
            async with asyncio.timeout(5):
                while len(began) < 3:
                    await asyncio.sleep(0.001)
            assert began == ["bob", "eve", "ada 1"]
            go_on.set()
        assert began == ["bob", "eve", "ada 1", "ada 2"]
        assert not shares._lanes
        assert not shares._lines

    async def test_of_many_principals_are_their_tenants(self) -> None:
        shares = Shares(SharesSettings(tenant_answers=8 * MIB, principal_answers=4 * MIB), now=Clock())
        for number in range(5):
            shares.charge(Principal(str(number), "a", frozenset()), 4 * MIB)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), shares.turn(ADA):
                pass
        async with asyncio.timeout(1), shares.turn(EVE):
            pass

    async def test_are_not_paid_for_by_siblings(self) -> None:
        """Their breakers would open for everybody."""
        shares, _ = self._overdrawn(seconds=1000)
        async with asyncio.timeout(1), shares.turn(ADA, pays=False):
            pass

    async def test_let_few_calls_wait(self) -> None:
        shares, clock = self._overdrawn(seconds=1000)

        async def call() -> None:
            async with shares.turn(ADA):
                pass

        calls = [asyncio.create_task(call()) for _ in range(Shares.MOST_WAITING + 1)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyCallsError, match="4194304 bytes of answers a second") as refusal:
            await call()
        assert refusal.value.metadata == {"holder": "principal", "resource": "answers", "limit": str(4 * MIB)}
        used = {(one.resource, one.holder): [one.used / one.limit, one.refusals] for one in shares.use}
        assert used["answers", "principal"] == [1, 1]
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        # What is paid for is forgotten.
        clock.now += 1000
        shares.charge(EVE, 1)
        assert sum(map(len, shares._paid.values())) == 2
        async with asyncio.timeout(1):
            await call()

    @staticmethod
    async def _store(database: TestDatabase, tenant_id: str, how_many: int, *, each: int = 0) -> list[str]:
        """Stores users with ``each`` bytes of labels; returns their ids."""
        connection = await asyncpg.connect(database.admin_url)
        try:
            stored = await connection.fetch(
                "INSERT INTO users (tenant_id, id, display_name, email, labels, state, created_by)"
                " SELECT $1, gen_random_uuid(), 'Ada ' || n, 'ada.' || n || '@example.com',"
                " jsonb_build_object('note', repeat('x', $3)), 'ACTIVE', 'somebody'"
                " FROM generate_series(1, $2) AS n RETURNING id::text",
                tenant_id,
                how_many,
                each,
            )
            return [row["id"] for row in stored]
        finally:
            await connection.close()

    @staticmethod
    def _overdrawn(*, seconds: float) -> tuple[Shares, Clock]:
        clock = Clock()
        shares = Shares(SharesSettings(tenant_answers=2**62, principal_answers=4 * MIB), now=clock)
        shares.charge(ADA, int(seconds * 4 * MIB))
        return shares, clock

    async def test_of_one_tenant_are_refused_before_the_database_is_asked(
        self,
        users_database: TestDatabase,
        identity: Identity,
        admin: Caller,
        stranger: Caller,
        statements: Statements,
    ) -> None:
        # One page is more than it will ever have paid for.
        async with sharing(users_database, identity, SharesSettings(principal_answers=1)) as (users, port):
            await self._store(users_database, admin.tenant_id, 1000)
            large = pb.ListUsersRequest(page_size=1000)
            await users.ListUsers(large, metadata=admin.metadata)
            before = len(statements)
            calls = [users.ListUsers(large, metadata=admin.metadata) for _ in range(40)]
            await until_shown(port, "share_refusals_total", ("answers", "principal"), 40 - Shares.MOST_WAITING - 1)
            assert len(statements) == before
            with refused(S.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS") as refusal:
                await users.GetMe(pb.GetMeRequest(), metadata=admin.metadata)
            assert refusal.metadata["resource"] == "answers"
            colleague = identity.caller(admin.tenant_id, "admin", subject="colleague")
            for caller in (stranger, colleague):
                await users.ListUsers(pb.ListUsersRequest(), metadata=caller.metadata)
            for call in calls:
                call.cancel()
            assert (await shown(port, "share_used_ratio"))["answers", "principal"] == 1

    async def test_that_are_too_large_are_paid_for_like_others(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        ids = await self._store(users_database, admin.tenant_id, 11, each=MIB)
        async with sharing(users_database, identity, SharesSettings(principal_answers=10 * MIB)) as (users, port):
            with refused(S.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE"):
                await users.BatchGetUsers(pb.BatchGetUsersRequest(ids=ids), metadata=admin.metadata)
            # A second's worth, of which some milliseconds are paid for.
            assert (await shown(port, "share_used_ratio"))["answers", "principal"] > 0.5

    async def test_of_watches_are_paid_for_before_the_next_page_is_read(
        self, users_database: TestDatabase, identity: Identity, admin: Caller, statements: Statements
    ) -> None:
        colleague = identity.caller(admin.tenant_id, "admin", subject="colleague")
        begin = pb.WatchUsersRequest(initial_state=True)
        # One page is more than it will ever have paid for.
        settings = replace(settings_for(users_database, identity), shares=SharesSettings(principal_answers=1))
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(running_service(SERVICE, settings))
            users, port = UserServiceStub(service.channel), service.server.operations_port
            await self._store(users_database, admin.tenant_id, 12, each=200_000)
            small = await stack.enter_async_context(watching(users.WatchUsers, pb.WatchUsersRequest(), colleague))
            await small.until("bookmark")
            watch = await stack.enter_async_context(watching(users.WatchUsers, begin, admin))
            page = [(await watch.next()).WhichOneof("event") for _ in range(4)]
            await until_shown(port, "share_used_ratio", ("answers", "principal"), 1)
            before = len(statements)
            # Others go on, and so does a watch that has sent little.
            created = await create_user(users, colleague)
            assert await small.change() == ("created", created)
            assert sum("LIMIT" in sql for sql in statements[before:]) == 1
            assert page == ["created"] * 4
            # It ends like the others.
            stopping = asyncio.create_task(service.server.drain())
            last = (await watch.until("error"))[-1]
            assert last.resume_token
            await stopping

    async def test_of_one_page_after_the_other_are_never_refused(
        self, users_database: TestDatabase, identity: Identity, admin: Caller
    ) -> None:
        async with sharing(users_database, identity, SharesSettings()) as (users, port):
            await self._store(users_database, admin.tenant_id, 10_000)
            ids, token, sizes = set[str](), "", list[int]()
            while token or not ids:
                request = pb.ListUsersRequest(page_size=1000, page_token=token)
                page = await users.ListUsers(request, metadata=admin.metadata)
                token, sizes = page.next_page_token, [*sizes, len(page.users)]
                ids |= {user.id for user in page.users}
            assert (len(ids), sizes) == (10_000, [1000] * 10)
            assert set((await shown(port, "share_refusals_total")).values()) == {0}
