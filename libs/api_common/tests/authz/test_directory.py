"""What is known of stored users, for how long, and what happens when nobody can tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import grpc
import pytest
from ameide.user.v1 import directory_pb2 as pb
from api_common.authn import Principal
from api_common.authz import directory as module
from api_common.authz.directory import MAX_AGE_SECONDS, MAX_STALE_SECONDS, Directory, StoredUser, UsersService
from api_common.call import CallContext
from api_common.errors import (
    AuthorizationError,
    DeadlineExceededError,
    DomainError,
    ExternalServiceError,
    InternalError,
    UnauthenticatedError,
)
from api_common.siblings import FAILURES_TO_OPEN, Siblings
from api_common.telemetry import Metrics, Trace
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

UNTRACED = Trace("1" * 32, parent_id="", sampled=False)

Standing = pb.ResolvePrincipalResponse
ID = "0190a5c2-0000-7000-8000-00000000000a"
ADA = Principal(ID, "acme", frozenset({"admin"}), "ada@example.com", time.time() + 3600)
VIEWER = StoredUser(is_active=True, roles=frozenset({"viewer"}))
EDITOR = StoredUser(is_active=True, roles=frozenset({"editor"}))
SUSPENDED = StoredUser(is_active=False, roles=frozenset())


@dataclass
class Source:
    """Stored users that a test scripts."""

    answer: StoredUser | DomainError | None = VIEWER
    asked: list[CallContext] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)
    """Answers come once it is set."""

    def __post_init__(self) -> None:
        self.open.set()

    async def find(self, ctx: CallContext) -> StoredUser | None:
        self.asked.append(ctx)
        answer = self.answer
        try:
            async with asyncio.timeout_at(ctx.deadline):
                await self.open.wait()
        except TimeoutError as error:
            raise DeadlineExceededError("too late") from error
        if isinstance(answer, DomainError):
            raise answer
        return answer


@dataclass
class Clock:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(source: Source, clock: Clock) -> Directory:
    return Directory(source, now=clock)


def context(principal: Principal = ADA) -> CallContext:
    return CallContext(
        principal,
        "0190a5c2-0000-4000-8000-000000000001",
        asyncio.get_running_loop().time() + 5,
        UNTRACED,
    )


async def resolved(directory: Directory, principal: Principal = ADA) -> Principal:
    """Does what admission does."""
    return directory.recall(principal) or await directory.ask(context(principal))


class TestRoles:
    async def test_that_are_stored_replace_those_of_the_token(self, directory: Directory) -> None:
        assert await resolved(directory) == replace(ADA, roles=frozenset({"viewer"}))

    async def test_of_the_token_stay_if_the_tenant_has_no_such_user(self, directory: Directory, source: Source) -> None:
        source.answer = None
        assert [await resolved(directory) for _ in range(2)] == [ADA, ADA]
        assert len(source.asked) == 1

    @pytest.mark.parametrize(
        "principal",
        [
            replace(ADA, kind="service_account"),
            *(replace(ADA, subject=subject) for subject in ("ada", "x" * 36, ID[:-1], ID.replace("-", "0"), f"{ID} ")),
        ],
    )
    async def test_of_whoever_cannot_be_stored_are_not_asked_for(
        self, directory: Directory, source: Source, principal: Principal
    ) -> None:
        assert directory.recall(principal) is principal
        assert not source.asked

    async def test_are_those_of_the_tenant_in_the_token(self, directory: Directory, source: Source) -> None:
        await resolved(directory)
        source.answer = None
        stranger = replace(ADA, tenant_id="globex")
        assert await resolved(directory, stranger) == stranger

    async def test_are_the_same_however_the_issuer_writes_the_id(self, directory: Directory, source: Source) -> None:
        await resolved(directory)
        shouted = replace(ADA, subject=ID.upper())
        assert await resolved(directory, shouted) == replace(shouted, roles=frozenset({"viewer"}))
        assert len(source.asked) == 1

    async def test_of_the_suspended_open_nothing(self, directory: Directory, source: Source) -> None:
        source.answer = SUSPENDED
        for _ in range(2):
            with pytest.raises(UnauthenticatedError):
                await resolved(directory)
        assert len(source.asked) == 1


class TestBound:
    async def test_is_half_a_minute(self, directory: Directory, source: Source, clock: Clock) -> None:
        await resolved(directory)
        source.answer = EDITOR
        clock.seconds += MAX_AGE_SECONDS - 0.01
        assert (await resolved(directory)).roles == {"viewer"}
        clock.seconds += 0.01
        assert (await resolved(directory)).roles == {"editor"}
        assert MAX_AGE_SECONDS <= 30

    async def test_counts_from_before_the_question(self, directory: Directory, source: Source, clock: Clock) -> None:
        source.open.clear()
        waiting = asyncio.create_task(resolved(directory))
        while not source.asked:
            await asyncio.sleep(0)
        clock.seconds += MAX_AGE_SECONDS
        source.answer = SUSPENDED
        source.open.set()
        await waiting
        with pytest.raises(UnauthenticatedError):
            await resolved(directory)

    async def test_is_at_once_for_what_this_process_changed(self, directory: Directory, source: Source) -> None:
        await resolved(directory)
        source.answer = EDITOR
        directory.forget("globex", ID)
        assert (await resolved(directory)).roles == {"viewer"}
        directory.forget("acme", ID)
        assert (await resolved(directory)).roles == {"editor"}

    async def test_holds_for_an_answer_that_was_under_way(self, directory: Directory, source: Source) -> None:
        source.open.clear()
        waiting = asyncio.create_task(resolved(directory))
        while not source.asked:
            await asyncio.sleep(0)
        source.answer = EDITOR
        directory.forget("acme", ID)
        source.open.set()
        await waiting
        assert (await resolved(directory)).roles == {"editor"}

    async def test_of_what_is_kept_drops_the_oldest_answer(
        self, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_CACHE_SIZE", 2)
        directory = Directory(source)
        principals = [replace(ADA, subject=f"{ID[:-1]}{digit}") for digit in "123"]
        for principal in principals:
            await resolved(directory, principal)
        assert [directory.recall(principal) is None for principal in principals] == [True, False, False]


class TestLookUp:
    async def test_is_one_for_all_who_wait(self, directory: Directory, source: Source) -> None:
        source.open.clear()
        waiting = [asyncio.create_task(resolved(directory)) for _ in range(40)]
        while not source.asked:
            await asyncio.sleep(0)
        source.open.set()
        assert {(await one).roles for one in waiting} == {VIEWER.roles}
        assert len(source.asked) == 1

    async def test_goes_on_for_the_others_when_the_first_one_leaves(self, directory: Directory, source: Source) -> None:
        source.open.clear()
        first, second = (asyncio.create_task(resolved(directory)) for _ in range(2))
        while not source.asked:
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        source.open.set()
        assert (await second).roles == {"viewer"}

    async def test_has_a_deadline_of_its_own(
        self, directory: Directory, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "LOOK_UP_SECONDS", 0.05)
        source.open.clear()
        before = asyncio.get_running_loop().time()
        with pytest.raises(ExternalServiceError):
            await resolved(directory)
        assert before + 0.05 <= source.asked[0].deadline <= before + 1
        source.open.set()
        assert (await resolved(directory)).roles == {"viewer"}


class TestOutage:
    @pytest.mark.parametrize("failure", [ExternalServiceError("down"), InternalError("broken")])
    async def test_leaves_the_last_answer_for_five_minutes(
        self, directory: Directory, source: Source, clock: Clock, failure: DomainError
    ) -> None:
        await resolved(directory)
        source.answer = failure
        clock.seconds += MAX_STALE_SECONDS - 0.01
        assert (await resolved(directory)).roles == {"viewer"}
        clock.seconds += 0.01
        with pytest.raises(ExternalServiceError):
            await resolved(directory)
        assert MAX_STALE_SECONDS <= 300

    async def test_lets_nobody_in_who_was_suspended_before(
        self, directory: Directory, source: Source, clock: Clock
    ) -> None:
        source.answer = SUSPENDED
        with pytest.raises(UnauthenticatedError):
            await resolved(directory)
        source.answer = ExternalServiceError("down")
        clock.seconds += MAX_AGE_SECONDS
        with pytest.raises(UnauthenticatedError):
            await resolved(directory)

    async def test_that_is_refused_is_a_defect_that_no_retry_repairs(
        self, directory: Directory, source: Source
    ) -> None:
        source.answer = AuthorizationError("This service does not serve this caller.")
        with pytest.raises(InternalError), capture_logs() as logged:
            await resolved(directory)
        assert [(line["log_level"], line["setting"]) for line in logged] == [("error", "USERS_SERVER_INTERNAL_CALLERS")]

    async def test_lets_nobody_in_of_whom_nothing_is_known(self, directory: Directory, source: Source) -> None:
        source.answer = ExternalServiceError("down")
        with pytest.raises(ExternalServiceError) as caught:
            await resolved(directory)
        assert caught.value.retry_after_seconds == 1

    async def test_ends_with_the_first_answer(self, directory: Directory, source: Source, clock: Clock) -> None:
        await resolved(directory)
        source.answer = ExternalServiceError("down")
        clock.seconds += MAX_AGE_SECONDS
        await resolved(directory)
        source.answer = EDITOR
        assert (await resolved(directory)).roles == {"editor"}


class TestUsersService:
    @pytest.mark.parametrize(
        ("answer", "found"),
        [
            (pb.ResolvePrincipalResponse(standing=Standing.UNKNOWN), None),
            (pb.ResolvePrincipalResponse(standing=Standing.ACTIVE, roles=["viewer"]), VIEWER),
            (pb.ResolvePrincipalResponse(standing=Standing.LOCKED_OUT), SUSPENDED),
        ],
    )
    async def test_is_understood(self, answer: pb.ResolvePrincipalResponse, found: StoredUser | None) -> None:
        async with answering(answer.SerializeToString()) as users:
            assert await users.find(context()) == found

    @pytest.mark.parametrize("answer", [b"", b"\x08\x07"], ids=["nothing", "a standing of tomorrow"])
    async def test_opens_nothing_when_it_is_not(self, answer: bytes) -> None:
        async with answering(answer) as users:
            with pytest.raises(ExternalServiceError):
                await users.find(context())

    async def test_is_left_alone_when_it_keeps_silent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its own deadline ends a look-up, not the caller's, so the breaker counts it."""
        monkeypatch.setattr(module, "LOOK_UP_SECONDS", 0.05)
        asked: list[None] = []
        async with answering(None, asked=asked) as users:
            directory = Directory(users)
            for _ in range(3 * FAILURES_TO_OPEN):
                with pytest.raises(ExternalServiceError):
                    await resolved(directory)
        assert 0 < len(asked) <= FAILURES_TO_OPEN


@asynccontextmanager
async def answering(answer: bytes | None, *, asked: list[None] | None = None) -> AsyncIterator[UsersService]:
    """Yields a users service that says nothing but ``answer``, or nothing at all; ``asked`` counts the calls."""

    async def answer_all(_: bytes, transport: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if asked is not None:
            asked.append(None)
        if answer is None:
            await asyncio.Event().wait()
        return answer or b""

    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer_all)
    contract = pb.DESCRIPTOR.services_by_name["DirectoryService"]
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(contract.full_name, {"ResolvePrincipal": method}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    siblings = Siblings({"users": f"127.0.0.1:{port}"}, None, Metrics(CollectorRegistry()))
    yield UsersService(siblings)
    await siblings.close()
    await server.stop(None)
