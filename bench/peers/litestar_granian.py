"""Litestar on Granian with msgspec and asyncpg: the fastest REST framework of Python."""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import jwt
import msgspec
import uuid_utils
from granian.constants import Interfaces, Loops
from granian.http import HTTP1Settings
from granian.server import Server
from litestar import Litestar, Request, Response, get, patch, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import (
    ClientException,
    HTTPException,
    NotAuthorizedException,
    NotFoundException,
    PermissionDeniedException,
)
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.params import Parameter

from bench.peers.auth import Caller, verify_cached
from bench.peers.models import EMAIL, LABEL
from bench.peers.paging import from_token, to_token
from bench.peers.transport import CERTIFICATE, IDLE_SECONDS, KEY, PORT

Labels = Annotated[
    dict[Annotated[str, msgspec.Meta(pattern=LABEL)], Annotated[str, msgspec.Meta(max_length=255)]],
    msgspec.Meta(max_length=64),
]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class UserWrite(msgspec.Struct, rename="camel"):
    display_name: Name
    email: Annotated[str, msgspec.Meta(pattern=EMAIL, max_length=254)]
    labels: Labels = {}
    roles: Annotated[list[str], msgspec.Meta(max_length=16)] = []

    def __post_init__(self) -> None:
        if not {"viewer", "editor", "operator", "admin"}.issuperset(self.roles):
            raise ValueError("there is no such role")


class UserUpdate(msgspec.Struct, rename="camel"):
    display_name: Name
    etag: Annotated[str, msgspec.Meta(pattern=r'^"\d{1,18}"$')]


class Resource(msgspec.Struct, rename="camel", kw_only=True):
    id: str
    tenant_id: str
    display_name: str
    labels: dict[str, str]
    state: str
    create_time: datetime
    update_time: datetime
    delete_time: datetime | msgspec.UnsetType = msgspec.UNSET
    created_by: str
    etag: str


class User(Resource, kw_only=True):
    email: str
    roles: list[str]


class Users(msgspec.Struct):
    users: list[User]


class UserPage(msgspec.Struct, rename="camel"):
    users: list[User]
    next_page_token: str


class Tool(msgspec.Struct):
    name: str
    description: str
    input_schema: dict[str, Any] = msgspec.field(name="inputSchema")


class Agent(Resource, kw_only=True):
    description: str
    model: str
    instructions: str
    tools: list[Tool]
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class Authentication(AbstractAuthenticationMiddleware):
    async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        try:
            caller = verify_cached(token)
        except jwt.InvalidTokenError as error:
            raise NotAuthorizedException("A valid credential is required.") from error
        needed = "read" if connection.scope.get("method") == "GET" else "write"
        if scheme != "Bearer" or needed not in caller.permissions:
            raise PermissionDeniedException("The credential does not allow this.")
        return AuthenticationResult(user=caller, auth=None)


_GET: Final = "SELECT * FROM users WHERE tenant_id = $1 AND id = $2"
_BATCH: Final = "SELECT * FROM users WHERE tenant_id = $1 AND id = ANY($2::uuid[])"
_PAGE: Final = (
    "SELECT * FROM users WHERE tenant_id = $1 AND delete_time IS NULL {} ORDER BY create_time DESC, id DESC LIMIT $2"
)
_FIRST, _NEXT = _PAGE.format(""), _PAGE.format("AND (create_time, id) < ($3, $4)")
_INSERT: Final = (
    "INSERT INTO users (tenant_id, id, display_name, labels, state, created_by, email, roles)"
    " VALUES ($1, $2, $3, $4, 'ACTIVE', $5, $6, $7) RETURNING *"
)
_INSERT_KEY: Final = "INSERT INTO idempotency_keys VALUES ($1, $2, 'create', $3, $4, $5, $6)"
_FIND_KEY: Final = (
    "SELECT request_hash, response FROM idempotency_keys"
    " WHERE tenant_id = $1 AND principal = $2 AND method = 'create' AND key = $3"
)
_UPDATE: Final = (
    "UPDATE users SET display_name = $4, version = version + 1, update_time = now()"
    " WHERE tenant_id = $1 AND id = $2 AND version = $3 AND delete_time IS NULL RETURNING *"
)
_GET_AGENT: Final = "SELECT * FROM agents WHERE tenant_id = $1 AND id = $2"


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: b"\x01" + msgspec.json.encode(value),
        decoder=lambda value: msgspec.json.decode(value[1:]),
        format="binary",
    )


async def _keep(_: object) -> None:
    """Does not reset a session, because nothing is ever set on one."""


def _pool(database: str) -> asyncpg.Pool:
    size = int(os.environ[f"{database}_POOL"])
    url = os.environ[f"{database}_ADMIN_URL"]
    return asyncpg.create_pool(url, min_size=1, max_size=size, init=_prepare, reset=_keep)


@asynccontextmanager
async def _pools(app: Litestar) -> AsyncIterator[None]:
    async with _pool("USERS") as users, _pool("AGENTS") as agents:
        app.state.users, app.state.agents = users, agents
        yield


def _standard(row: asyncpg.Record) -> dict[str, Any]:
    standard = {name: row[name] for name in ("tenant_id", "display_name", "labels", "state", "created_by")}
    times = {"create_time": row["create_time"], "update_time": row["update_time"]}
    deleted = {"delete_time": row["delete_time"]} if row["delete_time"] else {}
    return {**standard, **times, **deleted, "id": str(row["id"]), "etag": f'"{row["version"]}"'}


def _user(row: asyncpg.Record) -> User:
    return User(**_standard(row), email=row["email"], roles=row["roles"])


Asked: TypeAlias = Request[Caller, None, State]


@get("/v1/users:batchGet")
async def batch_get_users(
    request: Asked, state: State, ids: Annotated[list[UUID], Parameter(min_items=1, max_items=100)]
) -> Users:
    rows = await state.users.fetch(_BATCH, request.user.tenant_id, ids)
    known = {row["id"]: row for row in rows}
    if len(known) < len(ids):
        raise NotFoundException("There is no user with one of these ids.")
    return Users([_user(known[id]) for id in ids])


@get("/v1/users/{user_id:uuid}")
async def get_user(request: Asked, state: State, user_id: UUID) -> User:
    row = await state.users.fetchrow(_GET, request.user.tenant_id, user_id)
    if row is None:
        raise NotFoundException("There is no user with this id.")
    return _user(row)


@get("/v1/users")
async def list_users(
    request: Asked,
    state: State,
    page_size: Annotated[int, Parameter(query="pageSize", ge=1, le=1000)] = 50,
    page_token: Annotated[str, Parameter(query="pageToken")] = "",
) -> UserPage:
    own = (request.user.tenant_id, page_size + 1)
    rows = await (
        state.users.fetch(_NEXT, *own, *from_token(page_token)) if page_token else state.users.fetch(_FIRST, *own)
    )
    last = rows[page_size - 1] if len(rows) > page_size else None
    token = to_token(last["create_time"], str(last["id"])) if last else ""
    return UserPage([_user(row) for row in rows[:page_size]], token)


@post("/v1/users", status_code=200)
async def create_user(
    request: Asked,
    state: State,
    data: UserWrite,
    key: Annotated[str | None, Parameter(header="idempotency-key", max_length=255)] = None,
) -> Response[bytes] | User:
    tenant, subject = request.user.tenant_id, request.user.subject
    own = (tenant, str(uuid_utils.uuid7()), data.display_name, data.labels, subject, data.email, data.roles)
    digest = hashlib.sha256(msgspec.json.encode(data)).digest()
    try:
        if key is None:
            return _user(await state.users.fetchrow(_INSERT, *own))
        async with state.users.acquire() as connection, connection.transaction():
            body = msgspec.json.encode(_user(await connection.fetchrow(_INSERT, *own)))
            expires = datetime.now(UTC) + timedelta(hours=24)
            await connection.execute(_INSERT_KEY, tenant, subject, key, digest, body, expires)
    except asyncpg.UniqueViolationError as error:
        stored = await state.users.fetchrow(_FIND_KEY, tenant, subject, key) if key else None
        if stored is None:
            raise HTTPException("A live user has this e-mail address.", status_code=409) from error
        if stored["request_hash"] != digest:
            raise ClientException("This idempotency key was used for another request.") from error
        body = stored["response"]
    return Response(body, media_type="application/json")


@patch("/v1/users/{user_id:uuid}")
async def update_user(request: Asked, state: State, user_id: UUID, data: UserUpdate) -> User:
    tenant, expected = request.user.tenant_id, int(data.etag.strip('"'))
    row = await state.users.fetchrow(_UPDATE, tenant, user_id, expected, data.display_name)
    if row is not None:
        return _user(row)
    if await state.users.fetchrow(_GET, tenant, user_id) is None:
        raise NotFoundException("There is no user with this id.")
    raise HTTPException("The user has changed.", status_code=409)


@get("/v1/agents/{agent_id:uuid}")
async def get_agent(request: Asked, state: State, agent_id: UUID) -> Agent:
    row = await state.agents.fetchrow(_GET_AGENT, request.user.tenant_id, agent_id)
    if row is None:
        raise NotFoundException("There is no agent with this id.")
    own = {name: row[name] for name in ("description", "model", "instructions")}
    parameters = {} if row["parameters"] is None else {"parameters": row["parameters"]}
    return Agent(**_standard(row), **own, **parameters, tools=[Tool(**tool) for tool in row["tools"]])


app = Litestar(
    [batch_get_users, get_user, list_users, create_user, update_user, get_agent],
    middleware=[Authentication],
    lifespan=[_pools],
    openapi_config=None,
)

if __name__ == "__main__":
    Server(
        "bench.peers.litestar_granian:app",
        address="127.0.0.1",
        port=PORT,
        interface=Interfaces.ASGI,
        workers=1,
        loop=Loops.uvloop,
        log_access=True,
        http1_settings=HTTP1Settings(header_read_timeout=IDLE_SECONDS * 1000),
        ssl_cert=CERTIFICATE,
        ssl_key=KEY,
    ).serve()
