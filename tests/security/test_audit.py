"""What an auditor can rely on: an event for each denial and each use of power, and no secret in any line of the log."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from ameide.agent.v1 import agent_pb2
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.contract import MethodPolicy, read_policies
from api_common.events import is_audited
from api_common.testing import (
    NEVER,
    Caller,
    Identity,
    TestDatabase,
    refused,
    running_service,
    settings_for,
)
from google.protobuf.field_mask_pb2 import FieldMask
from structlog.testing import capture_logs
from users_service.service import SERVICE as USERS

from services.agents.tests.factories import create_agent
from services.users.tests.factories import a_user, create_user
from tests import protos

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S: Final = grpc.StatusCode
FIELDS: Final = {"event", "log_level", "version", "action", "outcome", "actor", "subject", "tenant_id", "request_id"}

Event = MutableMapping[str, Any]


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What was audited; other lines are left out while the list is read."""
    with capture_logs() as lines:
        yield lines


def audited(lines: list[Event]) -> list[Event]:
    return [line for line in lines if line["event"] == "audit"]


def policies() -> list[MethodPolicy]:
    return [policy for service in protos.services() for policy in read_policies(service).values()]


class TestMethods:
    def test_that_are_audited_are_all_that_do_more_than_read_and_write(self) -> None:
        audited = {policy.name for policy in policies() if is_audited(policy)}
        assert {"SuspendUser", "ActivateUser", "DeleteUser", "UndeleteUser", "PublishWorkflow"} <= audited
        assert {"ArchiveWorkflow", "DisableAgent", "ActivateAgent", "DeleteIpa", "UndeleteIpa"} <= audited
        plain = re.compile("(Batch)?(Create|Update)")
        for policy in policies():
            seen = is_audited(policy) or plain.match(policy.name)
            assert seen or policy.read_only, f"{policy.path} changes something unseen"
            assert is_audited(policy) or not policy.permission.endswith(".admin") or policy.read_only, policy.path


class TestEffects:
    async def test_of_a_verb_are_one_event(
        self, users: UserServiceAsyncStub, admin: Caller, events: list[Event]
    ) -> None:
        user = await create_user(users, admin)
        request_id = "0190a1b2-0000-4000-8000-000000000001"
        await users.SuspendUser(
            pb.SuspendUserRequest(id=user.id), metadata=(*admin.metadata, ("x-request-id", request_id))
        )
        (event,) = audited(events)
        assert event == {
            "event": "audit",
            "log_level": "info",
            "version": 1,
            "action": "ameide.user.v1.UserService/SuspendUser",
            "outcome": "done",
            "actor": {"subject": admin.subject, "service": None},
            "subject": {"type": "user", "id": user.id},
            "tenant_id": admin.tenant_id,
            "request_id": request_id,
        }

    async def test_of_deleting_and_restoring_are_events(
        self, agents: AgentServiceAsyncStub, admin: Caller, events: list[Event]
    ) -> None:
        agent = await create_agent(agents, admin)
        await agents.DeleteAgent(agent_pb2.DeleteAgentRequest(id=agent.id), metadata=admin.metadata)
        await agents.UndeleteAgent(agent_pb2.UndeleteAgentRequest(id=agent.id), metadata=admin.metadata)
        found = [(event["action"].rpartition("/")[2], event["subject"]) for event in audited(events)]
        subject = {"type": "agent", "id": agent.id}
        assert found == [("DeleteAgent", subject), ("UndeleteAgent", subject)]

    async def test_on_roles_name_the_old_and_the_new_ones(
        self, users: UserServiceAsyncStub, admin: Caller, events: list[Event]
    ) -> None:
        await create_user(users, admin, roles=["admin"])
        events.clear()
        user = await create_user(users, admin, roles=["viewer"])
        roles = FieldMask(paths=["roles"])
        for changed in (["admin", "viewer"], ["viewer", "admin"], []):
            request = pb.UpdateUserRequest(user=pb.User(id=user.id, roles=changed), update_mask=roles)
            await users.UpdateUser(request, metadata=admin.metadata)
        renamed = pb.UpdateUserRequest(user=pb.User(id=user.id, display_name="New"))
        await users.UpdateUser(renamed, metadata=admin.metadata)
        assert {event["action"] for event in audited(events)} == {"user.roles"}
        assert {event["subject"]["id"] for event in audited(events)} == {user.id}
        changes = [(event["before"], event["after"]) for event in audited(events)]
        assert changes == [((), ("viewer",)), (("viewer",), ("admin", "viewer")), (("admin", "viewer"), ())]

    async def test_of_a_batch_are_one_event_for_each_resource(
        self, users: UserServiceAsyncStub, admin: Caller, events: list[Event]
    ) -> None:
        await create_user(users, admin, roles=["admin"])
        events.clear()
        creation = pb.BatchCreateUsersRequest(
            requests=[pb.CreateUserRequest(user=a_user(roles=roles)) for roles in ([], ["admin"])]
        )
        first, second = (await users.BatchCreateUsers(creation, metadata=admin.metadata)).users
        changes = pb.BatchUpdateUsersRequest(
            requests=[
                pb.UpdateUserRequest(user=pb.User(id=first.id, roles=["editor"])),
                pb.UpdateUserRequest(user=pb.User(id=second.id, display_name="New")),
            ]
        )
        await users.BatchUpdateUsers(changes, metadata=admin.metadata)
        deletion = pb.BatchDeleteUsersRequest(requests=[pb.DeleteUserRequest(id=user.id) for user in (second, first)])
        await users.BatchDeleteUsers(deletion, metadata=admin.metadata)
        found = [(event["action"].rpartition("/")[2], event["subject"]["id"]) for event in audited(events)]
        roles = "user.roles"
        assert found == [
            (roles, second.id),
            (roles, first.id),
            ("BatchDeleteUsers", second.id),
            ("BatchDeleteUsers", first.id),
        ]
        assert [(event["before"], event["after"]) for event in audited(events)[:2]] == [
            ((), ("admin",)),
            ((), ("editor",)),
        ]

    async def test_that_were_rolled_back_are_none(
        self, users: UserServiceAsyncStub, admin: Caller, events: list[Event]
    ) -> None:
        user = await create_user(users, admin, email="taken@example.com")
        other = await create_user(users, admin)
        change = pb.User(id=other.id, email=user.email, roles=["admin"])
        with refused(S.ALREADY_EXISTS, "EMAIL_TAKEN"):
            await users.UpdateUser(pb.UpdateUserRequest(user=change), metadata=admin.metadata)
        with refused(S.FAILED_PRECONDITION, "INVALID_STATE"):
            await users.ActivateUser(pb.ActivateUserRequest(id=user.id), metadata=admin.metadata)
        with refused(S.ABORTED, "ETAG_MISMATCH"):
            await users.DeleteUser(pb.DeleteUserRequest(id=user.id, etag='"7"'), metadata=admin.metadata)
        batch = [pb.UpdateUserRequest(user=one) for one in (pb.User(id=user.id, roles=["admin"]), pb.User(id=NEVER))]
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await users.BatchUpdateUsers(pb.BatchUpdateUsersRequest(requests=batch), metadata=admin.metadata)
        assert audited(events) == []

    async def test_are_told_once_when_the_answer_is_replayed(
        self, users: UserServiceAsyncStub, admin: Caller, events: list[Event]
    ) -> None:
        user = await create_user(users, admin)
        for _ in range(3):
            metadata = (*admin.metadata, ("idempotency-key", "once"))
            await users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=metadata)
        assert len(audited(events)) == 1


class TestDenials:
    async def test_name_the_permission_and_what_it_was_about(
        self, users: UserServiceAsyncStub, identity: Identity, tenant_id: str, events: list[Event]
    ) -> None:
        viewer = identity.caller(tenant_id, "viewer", subject="mallory")
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.SuspendUser(pb.SuspendUserRequest(id=NEVER), metadata=viewer.metadata)
        (event,) = audited(events)
        assert event.keys() == FIELDS | {"permission"}
        assert (event["outcome"], event["permission"], event["tenant_id"]) == ("denied", "users.admin", tenant_id)
        assert (event["actor"]["subject"], event["subject"]) == ("mallory", {"type": "user", "id": NEVER})

    async def test_of_a_batch_are_one_event_about_nobody(
        self, users: UserServiceAsyncStub, nobody: Caller, events: list[Event]
    ) -> None:
        items = [pb.DeleteUserRequest(id=NEVER)] * 2
        with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
            await users.BatchDeleteUsers(pb.BatchDeleteUsersRequest(requests=items), metadata=nobody.metadata)
        assert [event["subject"] for event in audited(events)] == [None]

    async def test_are_told_for_every_method(
        self, users: UserServiceAsyncStub, nobody: Caller, events: list[Event]
    ) -> None:
        names = [method.name for method in pb.DESCRIPTOR.services_by_name["UserService"].methods]
        for name in names:
            with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
                call = getattr(users, name)(getattr(pb, f"{name}Request")(), metadata=nobody.metadata)
                await (call.read() if name.startswith("Watch") else call)
        assert [event["action"].rpartition("/")[2] for event in audited(events)] == names

    async def test_log_nothing_of_a_request_but_an_id(
        self, users: UserServiceAsyncStub, nobody: Caller, events: list[Event]
    ) -> None:
        for id in ("hunter2", "x" * 9000, f"{NEVER}\n"):
            with refused(S.PERMISSION_DENIED, "PERMISSION_DENIED"):
                await users.SuspendUser(pb.SuspendUserRequest(id=id), metadata=nobody.metadata)
        assert [event["subject"] for event in audited(events)] == [
            {"type": "user", "id": ""},
            None,
            {"type": "user", "id": ""},
        ]


# Nothing that a client sends or holds, but ids, may be in a line of the log.
SECRETS: Final = (
    "hunter2-body",
    "hunter2-key",
    "hunter2-query",
    "hunter2-header",
    "secret@example.com",
    "@example.com",
)
TOKENS: Final = re.compile(r"eyJ[\w-]{8,}|[Bb]earer\s+\S")


async def test_no_secret_reaches_the_log(
    capfd: pytest.CaptureFixture[str], users_database: TestDatabase, identity: Identity, admin: Caller, nobody: Caller
) -> None:
    async with running_service(USERS, settings_for(users_database, identity)) as service:
        asked, secrets = await ask_everything(UserServiceStub(service.channel), identity, admin, nobody)
    log = capfd.readouterr().out
    assert log.count('"event":"rpc"') == asked
    assert log.count("audit") >= 3
    assert not TOKENS.search(log), log
    for secret in (*SECRETS, *secrets):
        assert secret not in log, secret


async def ask_everything(
    users: UserServiceAsyncStub, identity: Identity, admin: Caller, nobody: Caller
) -> tuple[int, list[str]]:
    """Makes good and bad calls full of secrets; returns how many, and the tokens in them."""
    forged = identity.caller("t-forged", "admin").token[:-8] + "hunter2A"
    metadata = (*admin.metadata, ("idempotency-key", "hunter2-key"), ("x-api-key", "hunter2-header"))
    user = await users.CreateUser(
        pb.CreateUserRequest(user=a_user(email="secret@example.com", display_name="hunter2-body", roles=["admin"])),
        metadata=metadata,
    )
    calls: list[Awaitable[object]] = [
        users.CreateUser(pb.CreateUserRequest(user=a_user(email="secret@example.com")), metadata=admin.metadata),
        users.CreateUser(pb.CreateUserRequest(user=a_user(email="hunter2-body")), metadata=admin.metadata),
        users.CreateUser(pb.CreateUserRequest(user=a_user(email="secret@example.com")), metadata=nobody.metadata),
        users.SuspendUser(pb.SuspendUserRequest(id=user.id), metadata=admin.metadata),
        users.SuspendUser(pb.SuspendUserRequest(id="hunter2-body"), metadata=nobody.metadata),
        users.GetMe(pb.GetMeRequest(), metadata=(("authorization", f"Bearer {forged}"),)),
        users.GetMe(pb.GetMeRequest(), metadata=(("authorization", admin.token),)),
        users.GetMe(pb.GetMeRequest(), metadata=(("cookie", "hunter2-header"), ("x-request-id", "hunter2-header"))),
        users.ListUsers(pb.ListUsersRequest(filter='email = "secret@example.com"'), metadata=admin.metadata),
        users.ListUsers(pb.ListUsersRequest(filter='"hunter2-query'), metadata=admin.metadata),
        users.ListUsers(pb.ListUsersRequest(page_token="hunter2-query"), metadata=admin.metadata),
        users.DeleteUser(pb.DeleteUserRequest(id=user.id, etag="hunter2-body"), metadata=admin.metadata),
    ]
    await asyncio.gather(*calls, return_exceptions=True)
    return len(calls) + 1, [admin.token, nobody.token, forged]
