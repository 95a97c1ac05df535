"""Calls between services, against real servers: good ones, slow ones, broken ones."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
import structlog
from ameide.user.v1 import user_pb2 as pb
from api_common import errors
from api_common.authn import TRUST_DOMAIN, Authenticator, Peer, server_credentials
from api_common.db import TenantSemaphore, Turn
from api_common.errors import render
from api_common.siblings import client as clients
from api_common.siblings.client import MAX_WAIT_SECONDS
from api_common.siblings.client import Sibling as SiblingClient
from api_common.testing import tls_of

from libs.api_common.tests.sibling import CONTRACT, REQUEST, SECRET, Sibling, calling, context, serving
from tools.secrets.certificates import ensure

if TYPE_CHECKING:
    Transport = grpc.aio.ServicerContext[bytes, bytes]

MEANING: dict[grpc.StatusCode, type[errors.DomainError]] = {
    grpc.StatusCode.CANCELLED: errors.ExternalServiceError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InternalError,
    # The caller has time left: the sibling is too slow.
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.ExternalServiceError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: errors.InternalError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AuthorizationError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RateLimitError,
    grpc.StatusCode.FAILED_PRECONDITION: errors.FailedPreconditionError,
    grpc.StatusCode.ABORTED: errors.AbortedError,
    grpc.StatusCode.OUT_OF_RANGE: errors.InternalError,
    grpc.StatusCode.UNIMPLEMENTED: errors.InternalError,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNAVAILABLE: errors.ExternalServiceError,
    grpc.StatusCode.DATA_LOSS: errors.InternalError,
}


@pytest.fixture
def sibling() -> Sibling:
    return Sibling()


@pytest.fixture
async def users(sibling: Sibling) -> AsyncIterator[SiblingClient]:
    async with serving(sibling) as address, calling(address) as stub:
        yield stub


class TestIdentity:
    async def test_travels_with_the_call(self, users: SiblingClient, sibling: Sibling) -> None:
        ctx = context()
        ctx.trace.steps = []
        await users.call(REQUEST, pb.User, ctx)
        (metadata,) = sibling.calls
        assert metadata["authorization"] == f"Bearer {ctx.token}"
        assert metadata["x-request-id"] == ctx.request_id
        (step,) = ctx.trace.steps
        assert metadata["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-{step.span_id}-01"


class TestDeadline:
    async def test_is_what_is_left_of_the_callers(self, users: SiblingClient, sibling: Sibling) -> None:
        remaining: list[float] = []

        async def answer(transport: Transport) -> bytes:
            remaining.append(transport.time_remaining())
            return b""

        sibling.answer = answer
        await users.call(REQUEST, pb.User, context(seconds=3))
        await users.call(REQUEST, pb.User, context(seconds=30))
        assert 2 < remaining[0] <= 3 < remaining[1] <= MAX_WAIT_SECONDS + 0.1

    async def test_ends_the_call_and_the_siblings_work(self, users: SiblingClient, sibling: Sibling) -> None:
        _, stopped = works_until_cancelled(sibling)
        with pytest.raises(errors.DeadlineExceededError):
            await users.call(REQUEST, pb.User, context(seconds=0.2))
        await asyncio.wait_for(stopped.wait(), 20)

    async def test_that_has_passed_makes_no_call(self, users: SiblingClient, sibling: Sibling) -> None:
        with pytest.raises(errors.DeadlineExceededError):
            await users.call(REQUEST, pb.User, context(seconds=-1))
        assert not sibling.calls

    async def test_bounds_the_wait_for_a_sibling_that_accepts_and_says_nothing(self) -> None:
        async with raw_server(b"") as address, calling(address) as users:
            with pytest.raises((errors.DeadlineExceededError, errors.ExternalServiceError)):
                await asyncio.wait_for(users.call(REQUEST, pb.User, context(seconds=0.3)), 20)


class TestTurn:
    @pytest.mark.parametrize("code", [grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND])
    async def test_is_given_up_for_the_call_and_taken_again(
        self, users: SiblingClient, sibling: Sibling, code: grpc.StatusCode
    ) -> None:
        line, free = TenantSemaphore(1), list[bool]()
        turn = Turn(line, "acme")

        async def answer(transport: Transport) -> bytes:
            free.append(not line.locked("acme"))
            return b"" if code is grpc.StatusCode.OK else await transport.abort(code)

        sibling.answer = answer
        await turn.take()
        with contextlib.suppress(errors.NotFoundError):
            await users.call(REQUEST, pb.User, replace(context(), turn=turn))
        assert free == [True]
        assert line.locked("acme")
        turn.end()
        assert not line


class TestCancellation:
    async def test_reaches_the_sibling(self, users: SiblingClient, sibling: Sibling) -> None:
        started, stopped = works_until_cancelled(sibling)
        task = asyncio.create_task(users.call(REQUEST, pb.User, context()))
        await asyncio.wait_for(started.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(stopped.wait(), 20)


class TestErrors:
    def test_every_code_has_a_meaning(self) -> None:
        assert set(MEANING) == set(grpc.StatusCode) - {grpc.StatusCode.OK}

    @pytest.mark.parametrize("code", MEANING, ids=lambda code: code.name)
    async def test_mean_the_same_to_our_caller_in_our_words(
        self, users: SiblingClient, sibling: Sibling, code: grpc.StatusCode
    ) -> None:
        sibling.refuse(code, times=9)
        with pytest.raises(errors.DomainError) as caught:
            await users.call(REQUEST, pb.User, context())
        assert type(caught.value) is MEANING[code]
        assert SECRET not in caught.value.message

    async def test_say_which_fields_name_nothing_and_nothing_more(self, users: SiblingClient, sibling: Sibling) -> None:
        fields = [errors.FieldViolation(f"ids[{place}]", SECRET, "NOT_FOUND") for place in (3, 5)]
        code, message, trailers = render(errors.NotFoundError(SECRET, violations=fields), request_id="")

        async def answer(transport: Transport) -> bytes:
            await transport.abort(code, message, trailers)

        sibling.answer = answer
        with pytest.raises(errors.NotFoundError) as caught:
            await users.call(REQUEST, pb.User, context())
        assert [one.field for one in caught.value.violations] == ["ids[3]", "ids[5]"]
        assert SECRET not in str(render(caught.value, request_id=""))
        trailers = (("grpc-status-details-bin", b"\xff"),)
        with pytest.raises(errors.NotFoundError) as caught:
            await users.call(REQUEST, pb.User, context())
        assert caught.value.violations == ()

    async def test_tell_too_much_at_once_from_too_much_to_do(self, users: SiblingClient, sibling: Sibling) -> None:
        async def answer(transport: Transport) -> bytes:
            await transport.abort(*render(errors.PayloadTooLargeError(SECRET), request_id=""))

        sibling.answer = answer
        with pytest.raises(errors.PayloadTooLargeError) as caught:
            await users.call(REQUEST, pb.User, context())
        assert SECRET not in caught.value.message

    async def test_tell_when_to_try_again(self, users: SiblingClient, sibling: Sibling) -> None:
        for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
            sibling.refuse(code, times=9)
            with pytest.raises(errors.DomainError) as caught:
                await users.call(REQUEST, pb.User, context())
            assert caught.value.retry_after_seconds == 1

    async def test_leave_what_the_sibling_said_in_our_log(self, users: SiblingClient, sibling: Sibling) -> None:
        sibling.refuse(grpc.StatusCode.INTERNAL, times=1)
        with structlog.testing.capture_logs() as events, pytest.raises(errors.InternalError):
            await users.call(REQUEST, pb.User, context())
        (event,) = events
        assert (event["request"], event["code"], event["details"]) == ("GetUserRequest", "INTERNAL", SECRET)
        assert event["request_id"] == context().request_id

    async def test_say_that_an_answer_does_not_decode(self, users: SiblingClient, sibling: Sibling) -> None:
        async def answer(_: Transport) -> bytes:
            return b"\xff\xff\xff"

        sibling.answer = answer
        with pytest.raises(errors.InternalError):
            await users.call(REQUEST, pb.User, context())

    @pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n" + SECRET.encode(), b"\0" * 64])
    async def test_say_unavailable_of_what_is_no_grpc_server(self, garbage: bytes) -> None:
        async with raw_server(garbage) as address, calling(address) as users:
            with pytest.raises(errors.ExternalServiceError) as caught:
                await users.call(REQUEST, pb.User, context())
        assert address not in caught.value.message

    async def test_say_unavailable_where_nobody_listens(self, sibling: Sibling) -> None:
        async with serving(sibling) as address:
            pass
        async with calling(address) as users:
            with pytest.raises(errors.ExternalServiceError):
                await users.call(REQUEST, pb.User, context())


class TestRepeatedCalls:
    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
    async def test_reads_are_made_again_when_nobody_answered(
        self, users: SiblingClient, sibling: Sibling, code: grpc.StatusCode
    ) -> None:
        """A server that stops answers CANCELLED."""
        sibling.refuse(code, times=2)
        assert await users.call(REQUEST, pb.User, context()) == pb.User()
        assert len(sibling.calls) == 3

    async def test_writes_are_not(self, users: SiblingClient, sibling: Sibling) -> None:
        sibling.refuse(grpc.StatusCode.UNAVAILABLE, times=1)
        with pytest.raises(errors.ExternalServiceError):
            await users.call(pb.CreateUserRequest(), pb.User, context())
        assert len(sibling.calls) == 1

    async def test_a_sibling_in_trouble_sees_at_most_a_fifth_more(self, users: SiblingClient, sibling: Sibling) -> None:
        sibling.refuse(grpc.StatusCode.UNAVAILABLE, times=1000)
        for _ in range(100):
            with pytest.raises(errors.ExternalServiceError):
                await users.call(REQUEST, pb.User, context())
        assert len(sibling.calls) <= 120

    async def test_a_sibling_that_is_back_is_found(self, sibling: Sibling) -> None:
        async with serving(sibling) as address:
            port = int(address.rpartition(":")[2])
        async with calling(address) as users:
            with pytest.raises(errors.ExternalServiceError):
                await users.call(REQUEST, pb.User, context())
            async with serving(sibling, port=port), asyncio.timeout(10):
                while not sibling.calls:
                    with contextlib.suppress(errors.ExternalServiceError):
                        await users.call(REQUEST, pb.User, context())
                    await asyncio.sleep(0.05)


class TestMutualTls:
    async def test_serves_a_caller_of_our_authority_only(self, tmp_path: Path, sibling: Sibling) -> None:
        ours, theirs = tmp_path / "ours", tmp_path / "theirs"
        ensure(ours)
        ensure(theirs)
        async with serving(sibling, credentials=server_credentials(tls_of(ours, "users"))) as address:
            async with calling(address, tls_of(ours, "ipas")) as users:
                await users.call(REQUEST, pb.User, context())
            for foreign in (
                tls_of(theirs, "ipas"),
                tls_of(theirs, "ipas").model_copy(update={"ca_path": ours / "ca.pem"}),
            ):
                async with calling(address, foreign) as users:
                    with pytest.raises(errors.ExternalServiceError):
                        await users.call(REQUEST, pb.User, context())
        assert len(sibling.calls) == 1

    async def test_puts_a_token_for_this_call_in_the_place_of_the_users(self, tmp_path: Path, sibling: Sibling) -> None:
        ensure(tmp_path)
        own = tls_of(tmp_path, "ipas")
        async with (
            serving(sibling, credentials=server_credentials(tls_of(tmp_path, "users"))) as address,
            calling(address, own) as users,
        ):
            ctx = context()
            await users.call(REQUEST, pb.User, ctx)
        token = str(sibling.calls[0]["authorization"]).removeprefix("Bearer ")
        peer = Peer(f"{TRUST_DOMAIN}ipas", own.certificate_path.read_bytes())
        path = f"/{CONTRACT.full_name}/GetUser"
        principal = await Authenticator({}, service="users", callers=("ipas",)).authenticate(
            token, peer=peer, method=path
        )
        assert (principal.subject, principal.tenant_id) == (ctx.principal.subject, ctx.principal.tenant_id)
        assert principal.actor == peer.identity

    async def test_uses_a_new_certificate_from_the_next_call_on(self, tmp_path: Path, sibling: Sibling) -> None:
        ensure(tmp_path)
        peers: list[bytes] = []

        async def answer(transport: Transport) -> bytes:
            peers.extend(transport.auth_context()["x509_pem_cert"])
            return b""

        sibling.answer = answer
        async with (
            serving(sibling, credentials=server_credentials(tls_of(tmp_path, "users"))) as address,
            calling(address, tls_of(tmp_path, "ipas")) as users,
        ):
            await users.call(REQUEST, pb.User, context())
            for name in ("ipas.pem", "ipas.key"):
                (tmp_path / name).unlink()
            ensure(tmp_path)
            await users.call(REQUEST, pb.User, context())
        assert len(set(peers)) == 2


class TestCircuitBreaker:
    async def test_leaves_a_sibling_alone_that_is_slow_whatever_the_callers_hurry(
        self, users: SiblingClient, sibling: Sibling, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        works_until_cancelled(sibling)
        for _ in range(5):
            with pytest.raises(errors.DeadlineExceededError):
                await users.call(REQUEST, pb.User, context(seconds=0.05))
        assert users.breaker.state == "closed"
        monkeypatch.setattr(clients, "MAX_WAIT_SECONDS", 0.05)
        for _ in range(5):
            with pytest.raises(errors.ExternalServiceError):
                await users.call(REQUEST, pb.User, context())
        assert users.breaker.state == "open"

    async def test_leaves_a_sibling_alone_that_does_not_answer(self, users: SiblingClient, sibling: Sibling) -> None:
        sibling.refuse(grpc.StatusCode.UNAVAILABLE, times=1000)
        for _ in range(50):
            with pytest.raises(errors.ExternalServiceError):
                await users.call(pb.CreateUserRequest(), pb.User, context())
        assert (len(sibling.calls), users.breaker.state) == (5, "open")


def works_until_cancelled(sibling: Sibling) -> tuple[asyncio.Event, asyncio.Event]:
    """Makes ``sibling`` work without end; the events say that it began and that it was told to stop."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def answer(_: Transport) -> bytes:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    sibling.answer = answer
    return started, stopped


@contextlib.asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[str]:
    """Yields the address of a server that sends ``answer`` to every connection, and nothing else."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
