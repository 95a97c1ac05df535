"""The library's own example of a service: UserService of the contract over one table, with no rules but an e-mail's."""

from collections.abc import AsyncIterator
from enum import StrEnum
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ameide.user.v1 import user_pb2 as pb
from api_common.call import RequestContext, StreamContext
from api_common.contract import paths_to_write
from api_common.db import Row, metadata, resource_table
from api_common.errors import ConflictError
from api_common.listing import EnumField, Fields, IdField, LabelsField, TextField, TextListField, TimestampField
from api_common.resources import (
    BatchRepository,
    Change,
    Lifecycle,
    Make,
    Quotas,
    fill,
    fill_times,
    map_items,
    row_etag,
    with_rows,
)
from api_common.server import Service, ServiceDependencies
from api_common.testing import Caller, NoStoredUsers
from api_common.watch import Watch, change_tables
from sqlalchemy import ARRAY, Column, Computed, Index, Text, text

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

CONTRACT: Final = pb.DESCRIPTOR.services_by_name["UserService"]
MUTABLE: Final = frozenset({"display_name", "labels", "email", "roles"})

_numbers: Final = count(1)


class EmailTakenError(ConflictError):
    """A live user of the tenant has this e-mail address."""

    reason = "EMAIL_TAKEN"


class State(StrEnum):
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


LIFECYCLE: Final = Lifecycle(
    resource="user",
    transitions={
        "suspend": ({State.ACTIVE}, State.SUSPENDED),
        "activate": ({State.SUSPENDED}, State.ACTIVE),
    },
)

METADATA: Final = metadata()
users = resource_table(
    "users",
    METADATA,
    Column("email", Text, nullable=False),
    Column("email_folded", Text, Computed("lower(email)", persisted=True), nullable=False),
    Column("roles", ARRAY(Text), nullable=False, server_default=text("'{}'")),
)
Index(
    "uq_users_tenant_id_email_folded",
    users.c.tenant_id,
    users.c.email_folded,
    unique=True,
    postgresql_where=users.c.delete_time.is_(None),
)
change_tables(METADATA)

FIELDS: Final = Fields(
    {
        "id": IdField(column=users.c.id),
        "display_name": TextField(column=users.c.display_name, sortable=True),
        "email": TextField(column=users.c.email, folded=users.c.email_folded, sortable=True),
        "state": EnumField(column=users.c.state, states=State),
        "roles": TextListField(column=users.c.roles),
        "labels": LabelsField(column=users.c.labels),
        "create_time": TimestampField(column=users.c.create_time, sortable=True),
    }
)


def to_proto(row: Row, make: Make[pb.User] = pb.User) -> pb.User:
    user = make(
        **{name: row[name] for name in ("id", "tenant_id", "display_name", "state", "created_by", "email", "roles")},
        etag=row_etag(row),
    )
    fill_times(user, row, "create_time", "update_time", "delete_time")
    fill(user.labels, row["labels"])
    return user


class Users:
    """The RPCs of UserService."""

    def __init__(self, users: BatchRepository, watch: Watch[pb.WatchUsersResponse], quotas: Quotas) -> None:
        self._users = users
        self._watch = watch
        self._quotas = quotas

    @classmethod
    def build(cls, dependencies: ServiceDependencies) -> "Users":
        """Returns what serves; a subclass may answer otherwise."""
        watch = dependencies.watch_factory.of(users, fields=FIELDS, to_proto=to_proto, response=pb.WatchUsersResponse)
        tokens = dependencies.page_tokens
        repository = BatchRepository(users, resource="user", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=tokens)
        return cls(repository, watch, Quotas(("users",), dependencies.settings.quota))

    async def CreateUser(self, request: pb.CreateUserRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.insert(ctx.transaction, _created(request), created_by=ctx.principal.subject))

    async def GetUser(self, request: pb.GetUserRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.get(ctx.transaction, request.id))

    async def GetMe(self, request: pb.GetMeRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.get(ctx.transaction, ctx.principal.subject))

    async def ListUsers(self, request: pb.ListUsersRequest, ctx: RequestContext) -> pb.ListUsersResponse:
        page = await self._users.page(ctx.transaction, request, method="ListUsers")
        return await with_rows(pb.ListUsersResponse(next_page_token=page.next_page_token), "users", page.rows, to_proto)

    async def UpdateUser(self, request: pb.UpdateUserRequest, ctx: RequestContext) -> pb.User:
        change = _changed(request)
        return to_proto(await self._users.update(ctx.transaction, change.id, change.values, etag=change.etag))

    async def DeleteUser(self, request: pb.DeleteUserRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.delete(ctx.transaction, request.id, etag=request.etag))

    async def UndeleteUser(self, request: pb.UndeleteUserRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.undelete(ctx.transaction, request.id, etag=request.etag))

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, ctx: RequestContext) -> pb.BatchGetUsersResponse:
        rows = await self._users.get_many(ctx.transaction, request.ids)
        return await with_rows(pb.BatchGetUsersResponse(), "users", rows, to_proto)

    async def BatchCreateUsers(
        self, request: pb.BatchCreateUsersRequest, ctx: RequestContext
    ) -> pb.BatchCreateUsersResponse:
        items = map_items(request.requests, _created)
        rows = await self._users.insert_many(ctx.transaction, items, created_by=ctx.principal.subject)
        return await with_rows(pb.BatchCreateUsersResponse(), "users", rows, to_proto)

    async def BatchUpdateUsers(
        self, request: pb.BatchUpdateUsersRequest, ctx: RequestContext
    ) -> pb.BatchUpdateUsersResponse:
        changes = map_items(request.requests, _changed)
        before = await self._users.lock_many(ctx.transaction, changes)
        rows = await self._users.update_many(ctx.transaction, changes, before)
        return await with_rows(pb.BatchUpdateUsersResponse(), "users", rows, to_proto)

    async def BatchDeleteUsers(
        self, request: pb.BatchDeleteUsersRequest, ctx: RequestContext
    ) -> pb.BatchDeleteUsersResponse:
        before = await self._users.lock_many(ctx.transaction, map_items(request.requests, Change.deletion))
        rows = await self._users.delete_many(ctx.transaction, before)
        return await with_rows(pb.BatchDeleteUsersResponse(), "users", rows, to_proto)

    async def SuspendUser(self, request: pb.SuspendUserRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.move(ctx.transaction, request.id, "suspend", etag=request.etag))

    async def ActivateUser(self, request: pb.ActivateUserRequest, ctx: RequestContext) -> pb.User:
        return to_proto(await self._users.move(ctx.transaction, request.id, "activate", etag=request.etag))

    def WatchUsers(self, request: pb.WatchUsersRequest, ctx: StreamContext) -> AsyncIterator[pb.WatchUsersResponse]:
        return self._watch.follow(request, ctx)

    async def GetUserQuotas(self, request: pb.GetUserQuotasRequest, ctx: RequestContext) -> pb.GetUserQuotasResponse:
        return pb.GetUserQuotasResponse(quotas=await self._quotas.list(ctx.transaction))


SERVICE: Final = Service(
    name="example",
    servicers={CONTRACT: Users.build},
    constraints={
        "uq_users_tenant_id_email_folded": partial(
            EmailTakenError, "A live user of the tenant has this e-mail address."
        )
    },
    migrations=Path(__file__).parent / "migrations",
    stored_users=lambda _: NoStoredUsers(),
)


def a_user(**fields: Any) -> pb.User:
    """Returns a user that may be created; ``fields`` replace its own."""
    number = next(_numbers)
    return pb.User(**{"display_name": f"User {number}", "email": f"user{number}@example.com", **fields})


async def create_user(stub: "UserServiceAsyncStub", caller: Caller, **fields: Any) -> pb.User:
    """Creates a user as ``caller``."""
    return await stub.CreateUser(pb.CreateUserRequest(user=a_user(**fields)), metadata=caller.metadata)


def _created(request: pb.CreateUserRequest) -> dict[str, Any]:
    return {**_columns(request.user), "state": State.ACTIVE}


def _changed(request: pb.UpdateUserRequest) -> Change:
    user = request.user
    columns = _columns(user)
    fields = paths_to_write(user, request.update_mask, mutable=MUTABLE)
    return Change(user.id, user.etag, {name: columns[name] for name in fields})


def _columns(user: pb.User) -> dict[str, Any]:
    return {
        "display_name": user.display_name,
        "labels": dict(user.labels),
        "email": user.email,
        "roles": list(user.roles),
    }
