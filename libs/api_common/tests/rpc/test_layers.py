"""What every call passes through, seen by clients of the example: whatever they send, our shape comes back."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.call import RequestContext
from api_common.db import Statement
from api_common.rpc import adapter as rpc
from api_common.rpc.layers.admission import MAX_MESSAGE_BYTES
from api_common.testing import (
    NEVER,
    Caller,
    Identity,
    TestDatabase,
    TestService,
    refused,
    running_service,
    settings_for,
)
from google.protobuf.message import Message
from structlog.testing import capture_logs

from libs.api_common.tests.example.service import CONTRACT, SERVICE, Users, a_user, create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode
GET: Final = pb.GetUserRequest(id=NEVER)
METHODS: Final = [method.name for method in CONTRACT.methods]
SECRET: Final = "postgresql://root:hunter2@db.internal/users"

Sender = Callable[..., Awaitable[bytes]]
Handler = Callable[[RequestContext], Awaitable[pb.User]]
every_method = pytest.mark.parametrize("method", METHODS)


def sender(service: TestService, method: str) -> Sender:
    """Returns what sends bytes to ``method`` and returns those that come back."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = service.channel.unary_unary(
        f"/{CONTRACT.full_name}/{method}"
    )
    return call


@dataclass(slots=True)
class Puppet:
    """A users service whose GetUser, which reads, and SuspendUser, which writes, do what a test says."""

    handler: Handler
    users: UserServiceAsyncStub


@asynccontextmanager
async def puppet_service(database: TestDatabase, identity: Identity) -> AsyncIterator[Puppet]:
    class Servicer(Users):
        async def GetUser(self, request: pb.GetUserRequest, ctx: RequestContext) -> pb.User:
            return await made.handler(ctx)

        async def SuspendUser(self, request: pb.SuspendUserRequest, ctx: RequestContext) -> pb.User:
            return await made.handler(ctx)

    puppet = replace(SERVICE, servicers={CONTRACT: Servicer.build})
    async with running_service(puppet, settings_for(database, identity)) as service:
        made = Puppet(forever, UserServiceStub(service.channel))
        yield made


@pytest.fixture(scope="module")
async def puppet(users_database: TestDatabase, identity: Identity) -> AsyncIterator[Puppet]:
    async with puppet_service(users_database, identity) as made:
        yield made


class TestWhoCalls:
    @every_method
    async def test_is_asked_before_anything_else(self, users_service: TestService, method: str) -> None:
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            await sender(users_service, method)(b"\xff")

    @every_method
    async def test_must_have_a_role_for_it(self, users_service: TestService, nobody: Caller, method: str) -> None:
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED") as refusal:
            await sender(users_service, method)(b"\xff", metadata=nobody.metadata)
        assert refusal.metadata["permission"].startswith("users.")

    async def test_is_one(self, users: UserServiceAsyncStub, admin: Caller, stranger: Caller) -> None:
        good, other = admin.metadata[0], stranger.metadata[0]
        basic = ("authorization", "Basic YTpi")
        for metadata in ((good, good), (good, other), (other, good), (good, basic), (basic, good), (basic,)):
            with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
                await users.ListUsers(pb.ListUsersRequest(), metadata=metadata)

    @pytest.mark.parametrize("scheme", ["", "bearer ", "BEARER ", "Bearer", "Bearer  ", "Token ", "bearer: "])
    async def test_says_so_in_one_way_only(self, users: UserServiceAsyncStub, admin: Caller, scheme: str) -> None:
        with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
            metadata = (("authorization", f"{scheme}{admin.token}"),)
            await users.ListUsers(pb.ListUsersRequest(), metadata=metadata)

    async def test_is_not_taken_from_anywhere_else(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for metadata in (
            (("x-forwarded-authorization", f"Bearer {admin.token}"),),
            (("cookie", f"access_token={admin.token}"),),
            (("x-tenant-id", admin.tenant_id), ("x-user-id", admin.subject)),
            (("authorization-bin", f"Bearer {admin.token}".encode()),),
        ):
            with refused(S.UNAUTHENTICATED, "UNAUTHENTICATED"):
                await users.ListUsers(pb.ListUsersRequest(), metadata=metadata)


class TestRequests:
    @every_method
    @pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x7f", b"\x0b" * 200])
    async def test_that_do_not_decode_are_refused(
        self, users_service: TestService, admin: Caller, method: str, payload: bytes
    ) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await sender(users_service, method)(payload, metadata=admin.metadata)
        assert "Error" not in refusal.message

    async def test_that_hold_a_broken_text_are_refused(self, users_service: TestService, admin: Caller) -> None:
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST"):
            await sender(users_service, "GetUser")(b"\x0a\x02\xc3\x28", metadata=admin.metadata)

    async def test_may_be_as_large_as_the_limit(self, users_service: TestService, admin: Caller) -> None:
        send = sender(users_service, "GetUser")
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await send(padded(MAX_MESSAGE_BYTES), metadata=admin.metadata)
        with refused(S.RESOURCE_EXHAUSTED, "PAYLOAD_TOO_LARGE") as refusal:
            await send(padded(MAX_MESSAGE_BYTES + 1), metadata=admin.metadata)
        assert refusal.metadata == {"max_bytes": str(MAX_MESSAGE_BYTES)}

    async def test_hold_no_nul_anywhere(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for fields, path in (
            ({"display_name": "a\0b"}, "user.display_name"),
            ({"labels": {"team": "a\0"}}, "user.labels['team']"),
            ({"roles": ["admin", "\0"]}, "user.roles[1]"),
        ):
            with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
                await create_user(users, admin, **fields)
            assert path in refusal.violations

    async def test_with_an_unknown_field_or_enum_value_are_understood_without_it(
        self, users_service: TestService, admin: Caller
    ) -> None:
        """A newer client talks to an older service; what it cannot know is not stored."""
        user = a_user()
        # Field 5, `state`, has no value 99; field 2047 does not exist.
        raw = user.SerializeToString() + b"\x28\x63" + b"\xfa\x7f\x02hi"
        request = b"\x0a" + bytes([len(raw)]) + raw
        assert len(raw) < 128
        created = pb.User.FromString(await sender(users_service, "CreateUser")(request, metadata=admin.metadata))
        assert (created.email, created.state) == (user.email, pb.User.ACTIVE)


class TestUnknownMethods:
    @pytest.mark.parametrize(
        "path",
        [
            f"/{CONTRACT.full_name}/DropUsers",
            f"/{CONTRACT.full_name}/getuser",
            "/ameide.user.v2.UserService/GetUser",
            "/ameide.workflow.v1.WorkflowService/GetWorkflow",
            "/x/y",
        ],
    )
    async def test_are_refused_in_our_shape(self, users_service: TestService, admin: Caller, path: str) -> None:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = users_service.channel.unary_unary(path)
        for metadata in (None, admin.metadata):
            with refused(S.UNIMPLEMENTED, "METHOD_NOT_FOUND"):
                await call(b"", metadata=metadata)


class TestRequestIds:
    async def test_are_echoed(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for request_id in (str(uuid.uuid4()), str(uuid.uuid4()).upper()):
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND") as refusal:
                metadata = (*admin.metadata, ("x-request-id", request_id))
                await users.GetUser(pb.GetUserRequest(id=NEVER), metadata=metadata)
            assert refusal.request_id == request_id

    @pytest.mark.parametrize(
        "sent", ["", "1", "a" * 36, "{}", 'x","code":0', "a" * 4000, "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f10-x"]
    )
    async def test_are_replaced_when_malformed(self, users: UserServiceAsyncStub, admin: Caller, sent: str) -> None:
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND") as refusal:
            metadata = (*admin.metadata, ("x-request-id", sent))
            await users.GetUser(pb.GetUserRequest(id=NEVER), metadata=metadata)
        assert str(uuid.UUID(refusal.request_id)) == refusal.request_id

    async def test_stand_in_the_one_line_of_each_call(
        self, users_database: TestDatabase, identity: Identity, admin: Caller, capsys: pytest.CaptureFixture[str]
    ) -> None:
        request_id, trace_id = str(uuid.uuid4()), uuid.uuid4().hex
        metadata = (
            *admin.metadata,
            ("x-request-id", request_id),
            ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01"),
        )
        async with running_service(SERVICE, settings_for(users_database, identity)) as service:
            stub: UserServiceAsyncStub = UserServiceStub(service.channel)
            with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
                await stub.GetUser(pb.GetUserRequest(id=NEVER), metadata=metadata)
        written = capsys.readouterr().out
        assert admin.token not in written
        (line,) = access_lines(written)
        assert {
            name: line[name] for name in ("request_id", "trace_id", "tenant_id", "principal", "code", "reason")
        } == {
            "request_id": request_id,
            "trace_id": trace_id,
            "tenant_id": admin.tenant_id,
            "principal": admin.subject,
            "code": "NOT_FOUND",
            "reason": "RESOURCE_NOT_FOUND",
        }


class TestDefects:
    async def test_tell_the_caller_nothing_and_us_everything(self, puppet: Puppet, admin: Caller) -> None:
        puppet.handler = raising(ValueError(SECRET))
        with capture_logs() as logs, refused(S.INTERNAL, "INTERNAL") as refusal:
            await puppet.users.GetUser(GET, metadata=admin.metadata)
        assert "hunter2" not in repr(refusal)
        assert "ValueError" not in repr(refusal)
        (entry,) = (entry for entry in logs if entry["event"] == "unexpected error")
        assert (entry["request_id"], entry["exc_info"]) == (refusal.request_id, True)

    @pytest.mark.parametrize("raised", [KeyError("k"), RecursionError(), MemoryError(), StopAsyncIteration()])
    async def test_of_any_kind_have_our_shape(self, puppet: Puppet, admin: Caller, raised: Exception) -> None:
        puppet.handler = raising(raised)
        with capture_logs(), refused(S.INTERNAL, "INTERNAL"):
            await puppet.users.GetUser(GET, metadata=admin.metadata)


class TestDeadlines:
    async def test_end_a_call_in_our_shape(
        self, puppet: Puppet, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A caller without a deadline of its own hears from us when ours has passed."""
        monkeypatch.setattr(rpc, "MAX_CALL_SECONDS", 0.2)
        puppet.handler = forever
        with refused(S.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
            await puppet.users.GetUser(GET, metadata=admin.metadata)

    async def test_of_the_caller_cancel_the_handler(
        self, users_database: TestDatabase, identity: Identity, admin: Caller, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ended = asyncio.Event()

        async def note_the_end(ctx: RequestContext) -> pb.User:
            assert 0 < ctx.deadline - asyncio.get_running_loop().time() <= 0.3
            try:
                return await forever(ctx)
            finally:
                ended.set()

        async with puppet_service(users_database, identity) as puppet:
            puppet.handler = note_the_end
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await puppet.users.GetUser(GET, metadata=admin.metadata, timeout=0.3)
            await asyncio.wait_for(ended.wait(), 20)
        assert caught.value.code() is S.DEADLINE_EXCEEDED
        assert [line["code"] for line in access_lines(capsys.readouterr().out)] == ["DEADLINE_EXCEEDED"]

    async def test_that_have_passed_already_are_no_defect(self, users: UserServiceAsyncStub, admin: Caller) -> None:
        for seconds in (0, 1e-9):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata, timeout=seconds)
            assert caught.value.code() is S.DEADLINE_EXCEEDED


class TestCancellation:
    async def test_by_the_caller_rolls_back(self, puppet: Puppet, users: UserServiceAsyncStub, admin: Caller) -> None:
        user = await create_user(users, admin)
        change = Statement("UPDATE users SET display_name = 'Changed' RETURNING id", (), {})
        changed, ended = asyncio.Event(), asyncio.Event()

        async def change_and_wait(ctx: RequestContext) -> pb.User:
            try:
                assert await ctx.transaction.fetch_one(change, {})
                changed.set()
                return await forever(ctx)
            finally:
                ended.set()

        puppet.handler = change_and_wait
        call = puppet.users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata)
        await asyncio.wait_for(changed.wait(), 20)
        call.cancel()
        await asyncio.wait_for(ended.wait(), 20)
        # It takes the row's lock, so it would wait for a transaction that was left open.
        update = pb.UpdateUserRequest(user=pb.User(id=user.id, email="new@example.com"))
        found = await users.UpdateUser(update, metadata=admin.metadata, timeout=5)
        assert (found.display_name, found.email) == (user.display_name, "new@example.com")


def raising(error: Exception) -> Handler:
    async def handler(_: RequestContext) -> pb.User:
        raise error

    return handler


async def forever(_: RequestContext) -> pb.User:
    await asyncio.Event().wait()
    raise AssertionError("never set")


def padded(size: int) -> bytes:
    """Returns a GetUserRequest of exactly ``size`` bytes, most of them in a field that does not exist."""
    request = pb.GetUserRequest(id=NEVER).SerializeToString()
    # Field 2047, then the length in four bytes of seven bits.
    length = size - len(request) - 6
    varint = bytes([(length >> shift) & 0x7F | 0x80 for shift in (0, 7, 14)] + [length >> 21])
    return request + b"\xfa\x7f" + varint + bytes(length)


def access_lines(written: str) -> Sequence[dict[str, Any]]:
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == "rpc"]


class TestLargeMalformedRequests:
    async def test_are_refused_without_explaining_all_of_it(
        self, users: UserServiceAsyncStub, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Explaining is more than linear work on the event loop, so its size is bounded."""
        small = pb.User(email="nobody", roles=["root"], display_name="x" * 201)
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await users.CreateUser(pb.CreateUserRequest(user=small), metadata=admin.metadata)
        assert set(refusal.violations) == {"user.email", "user.roles[0]", "user.display_name"}
        # The package shows the function of this name, not the module.
        monkeypatch.setattr(sys.modules["api_common.rpc.layers.admission"], "MAX_EXPLAINED_PARTS", 2)
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await users.CreateUser(pb.CreateUserRequest(user=small), metadata=admin.metadata)
        assert len(refusal.violations) == 1

    @pytest.mark.parametrize(
        "request_",
        [
            pb.BatchGetUsersRequest(ids=["x"] * 1000),
            pb.CreateUserRequest(user=pb.User(roles=["x"] * 1000)),
            pb.CreateUserRequest(user=pb.User(labels={f"X{number}": "" for number in range(1000)})),
            pb.BatchCreateUsersRequest(requests=[pb.CreateUserRequest(user=pb.User(display_name="x" * 201))] * 1000),
        ],
        ids=["ids", "texts", "pairs", "items"],
    )
    def test_count_by_their_items(self, request_: Message, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three million bad ids took 220 s to explain."""
        module = sys.modules["api_common.rpc.layers.admission"]
        explained: list[bool] = []
        collect = module._validator.collect_violations

        class Observed:
            def collect_violations(self, message: Message, *, fail_fast: bool = False) -> Any:
                explained.append(not fail_fast)
                return collect(message, fail_fast=fail_fast)

        monkeypatch.setattr(module, "_validator", Observed())
        assert module._broken_rules(request_)
        assert explained == [False]
