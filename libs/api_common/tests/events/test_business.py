"""What is told of changes: once they are committed, once for each resource, and nothing of what a request carried."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import ResourceInfo
from api_common.events.business import record_business_event
from api_common.testing import NEVER, Caller, refused
from structlog.testing import capture_logs

from libs.api_common.tests.example.service import a_user, create_user

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
REQUEST_ID: Final = "0190a1b2-0000-4000-8000-000000000001"


@pytest.fixture
def lines() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged meanwhile."""
    with capture_logs() as found:
        yield found


def told(lines: list[MutableMapping[str, Any]]) -> list[tuple[str, str]]:
    return [(line["name"], line["resource"]["id"]) for line in lines if line["event"] == "business"]


class TestAnEvent:
    async def test_says_what_is_different_and_who_did_it(
        self, users: UserServiceAsyncStub, admin: Caller, lines: list[MutableMapping[str, Any]]
    ) -> None:
        context = (("x-request-id", REQUEST_ID), ("traceparent", f"00-{TRACE}-b7ad6b7169203331-00"))
        user = await users.CreateUser(pb.CreateUserRequest(user=a_user()), metadata=(*admin.metadata, *context))
        (event,) = (line for line in lines if line["event"] == "business")
        assert event == {
            "event": "business",
            "log_level": "info",
            "version": 1,
            "name": "user.created",
            "resource": {"type": "user", "id": user.id, "etag": user.etag},
            "tenant_id": admin.tenant_id,
            "actor": {"subject": admin.subject, "service": None},
            "request_id": REQUEST_ID,
            "trace_id": TRACE,
        }

    async def test_is_told_of_each_resource_of_a_batch(
        self, users: UserServiceAsyncStub, admin: Caller, lines: list[MutableMapping[str, Any]]
    ) -> None:
        batch = pb.BatchCreateUsersRequest(requests=[pb.CreateUserRequest(user=a_user()) for _ in range(3)])
        made = await users.BatchCreateUsers(batch, metadata=admin.metadata)
        assert told(lines) == [("user.created", user.id) for user in made.users]

    async def test_is_not_told_of_what_was_refused_or_only_read(
        self, users: UserServiceAsyncStub, admin: Caller, nobody: Caller, lines: list[MutableMapping[str, Any]]
    ) -> None:
        user = await create_user(users, admin)
        lines.clear()
        await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata)
        # Names no field, so nothing is written but the claim of the key.
        metadata = (*admin.metadata, ("idempotency-key", "once"))
        await users.UpdateUser(pb.UpdateUserRequest(user=pb.User(id=user.id)), metadata=metadata)
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "INVALID_STATE"):
            await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        with refused(grpc.StatusCode.ABORTED, "ETAG_MISMATCH"):
            await users.DeleteUser(pb.DeleteUserRequest(id=user.id, etag='"7"'), metadata=admin.metadata)
        with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=nobody.metadata)
        batch = [pb.DeleteUserRequest(id=id) for id in (user.id, NEVER)]
        with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await users.BatchDeleteUsers(pb.BatchDeleteUsersRequest(requests=batch), metadata=admin.metadata)
        assert told(lines) == []

    async def test_of_a_task_names_for_whom_it_works(self, lines: list[MutableMapping[str, Any]]) -> None:
        record_business_event("ipa.deployed", ResourceInfo("ipa", NEVER), etag='"4"', tenant_id="acme", actor="ada")
        (event,) = lines
        assert event["actor"] == {"subject": "ada", "service": None}
        assert (event["request_id"], event["trace_id"]) == (None, None)
