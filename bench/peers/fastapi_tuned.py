"""The same FastAPI, tuned by an expert.

It builds Core statements once, runs single statements in autocommit, answers by orjson, verifies each token once, and
writes its own log line per request.
"""

import hashlib
import os
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

import jwt
import orjson
import uuid_utils
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import (
    ARRAY,
    ColumnClause,
    DateTime,
    Integer,
    LargeBinary,
    Row,
    TableClause,
    Text,
    Uuid,
    bindparam,
    column,
    func,
    insert,
    select,
    table,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.peers.auth import Caller, verify_cached
from bench.peers.models import UserUpdate, UserWrite
from bench.peers.paging import from_token, to_token
from bench.peers.transport import CERTIFICATE, IDLE_SECONDS, KEY, PORT

_ID, _TIME = Uuid(as_uuid=False), DateTime(timezone=True)


def _resource_table(name: str, *own: ColumnClause[Any]) -> TableClause:
    standard = (
        *(column("tenant_id", Text), column("id", _ID), column("display_name", Text), column("labels", JSONB)),
        *(column("state", Text), column("create_time", _TIME), column("update_time", _TIME)),
        *(column("delete_time", _TIME), column("created_by", Text), column("version", Integer)),
    )
    return table(name, *standard, *own)


_users = _resource_table("users", column("email", Text), column("roles", ARRAY(Text)))
_agents = _resource_table(
    "agents",
    *(column("description", Text), column("model", Text), column("instructions", Text)),
    *(column("tools", JSONB), column("parameters", JSONB)),
)
_keys = table(
    "idempotency_keys",
    *(column(name, Text) for name in ("tenant_id", "principal", "method", "key")),
    *(column("request_hash", LargeBinary), column("response", LargeBinary), column("expire_time", _TIME)),
)
_CREATED: Final = ("tenant_id", "id", "display_name", "labels", "state", "created_by", "email", "roles")

_is_tenants = _users.c.tenant_id == bindparam("tenant")
_GET: Final = select(_users).where(_is_tenants, _users.c.id == bindparam("user"))
_BATCH: Final = select(_users).where(_is_tenants, _users.c.id == func.any(bindparam("ids", type_=ARRAY(_ID))))
_PAGE: Final = (
    select(_users)
    .where(_is_tenants, _users.c.delete_time.is_(None))
    .order_by(_users.c.create_time.desc(), _users.c.id.desc())
    .limit(bindparam("size", type_=Integer))
)
_NEXT: Final = _PAGE.where(
    tuple_(_users.c.create_time, _users.c.id)
    < tuple_(bindparam("after", type_=_TIME), bindparam("after_id", type_=_ID))
)
_INSERT: Final = insert(_users).values({name: bindparam(name) for name in _CREATED}).returning(*_users.c)
_INSERT_KEY: Final = insert(_keys).values({one.name: bindparam(one.name) for one in _keys.c})
_FIND_KEY: Final = select(_keys.c.request_hash, _keys.c.response).where(
    *(_keys.c[name] == bindparam(name) for name in ("tenant_id", "principal", "method", "key"))
)
_UPDATE: Final = (
    update(_users)
    .where(_is_tenants, _users.c.id == bindparam("user"), _users.c.delete_time.is_(None))
    .where(_users.c.version == bindparam("expected", type_=Integer))
    .values(display_name=bindparam("name"), version=_users.c.version + 1, update_time=func.now())
    .returning(*_users.c)
)
_GET_AGENT: Final = select(_agents).where(
    _agents.c.tenant_id == bindparam("tenant"), _agents.c.id == bindparam("agent")
)


def _engine(database: str) -> tuple[AsyncEngine, AsyncEngine]:
    """Returns an engine for transactions and one for single statements, over one pool."""
    engine = create_async_engine(
        os.environ[f"{database}_ADMIN_URL"].replace("postgresql:", "postgresql+asyncpg:"),
        pool_size=int(os.environ[f"{database}_POOL"]),
        max_overflow=0,
        json_deserializer=orjson.loads,
        json_serializer=lambda value: orjson.dumps(value).decode(),
    )
    return engine, engine.execution_options(isolation_level="AUTOCOMMIT")


_writing, _reading = _engine("USERS")
_, _reading_agents = _engine("AGENTS")


class AccessLog:
    """Writes one line per request, as uvicorn does, without its formatters."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.perf_counter(), 0

        async def observed(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._app(scope, receive, observed)
        if scope["type"] == "http":
            line = {"path": scope["path"], "status": status, "ms": (time.perf_counter() - started) * 1000}
            sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
            sys.stdout.buffer.flush()


async def _reader(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> Caller:
    try:
        caller = verify_cached(credentials.credentials)
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "A valid credential is required.") from error
    if "read" not in caller.permissions:
        raise HTTPException(403, "The credential does not allow this.")
    return caller


async def _writer(caller: Annotated[Caller, Depends(_reader)]) -> Caller:
    if "write" not in caller.permissions:
        raise HTTPException(403, "The credential does not allow this.")
    return caller


Reader = Annotated[Caller, Depends(_reader)]
Writer = Annotated[Caller, Depends(_writer)]
app = FastAPI()
app.add_middleware(AccessLog)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), media_type="application/json")


def _resource(row: Row[Any]) -> dict[str, Any]:
    resource = {
        "id": row.id,
        "tenantId": row.tenant_id,
        "displayName": row.display_name,
        "labels": row.labels,
        "state": row.state,
        "createTime": row.create_time,
        "updateTime": row.update_time,
        "createdBy": row.created_by,
        "etag": f'"{row.version}"',
    }
    return resource if row.delete_time is None else {**resource, "deleteTime": row.delete_time}


def _user(row: Row[Any]) -> dict[str, Any]:
    return {**_resource(row), "email": row.email, "roles": row.roles}


async def _read(engine: AsyncEngine, statement: Any, values: Mapping[str, Any]) -> Any:
    async with engine.connect() as connection:
        return (await connection.execute(statement, values)).all()


@app.get("/v1/users:batchGet")
async def batch_get_users(ids: Annotated[list[UUID], Query(min_length=1, max_length=100)], caller: Reader) -> Response:
    wanted = [str(id) for id in ids]
    rows = await _read(_reading, _BATCH, {"tenant": caller.tenant_id, "ids": wanted})
    known = {row.id: row for row in rows}
    if len(known) < len(wanted):
        raise HTTPException(404, "There is no user with one of these ids.")
    return _json({"users": [_user(known[id]) for id in wanted]})


@app.get("/v1/users/{id}")
async def get_user(id: UUID, caller: Reader) -> Response:
    rows = await _read(_reading, _GET, {"tenant": caller.tenant_id, "user": str(id)})
    if not rows:
        raise HTTPException(404, "There is no user with this id.")
    return _json(_user(rows[0]))


@app.get("/v1/users")
async def list_users(
    caller: Reader,
    page_size: Annotated[int, Query(ge=1, le=1000, alias="pageSize")] = 50,
    page_token: Annotated[str, Query(alias="pageToken")] = "",
) -> Response:
    values = {"tenant": caller.tenant_id, "size": page_size + 1}
    if page_token:
        values["after"], values["after_id"] = from_token(page_token)
    rows = await _read(_reading, _NEXT if page_token else _PAGE, values)
    last = rows[page_size - 1] if len(rows) > page_size else None
    token = to_token(last.create_time, last.id) if last else ""
    return _json({"users": [_user(row) for row in rows[:page_size]], "nextPageToken": token})


@app.post("/v1/users")
async def create_user(
    user: UserWrite, caller: Writer, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
) -> Response:
    own = {
        "tenant_id": caller.tenant_id,
        "id": str(uuid_utils.uuid7()),
        "state": "ACTIVE",
        "created_by": caller.subject,
    }
    values = {**own, **user.model_dump()}
    identity = {"tenant_id": caller.tenant_id, "principal": caller.subject, "method": "create", "key": idempotency_key}
    try:
        if idempotency_key is None:
            rows = await _read(_reading, _INSERT, values)
            return _json(_user(rows[0]))
        async with _writing.begin() as connection:
            answer = _json(_user((await connection.execute(_INSERT, values)).one()))
            expires = datetime.now(UTC) + timedelta(hours=24)
            rest = {"request_hash": _digest(user), "response": answer.body, "expire_time": expires}
            await connection.execute(_INSERT_KEY, {**identity, **rest})
        return answer
    except IntegrityError as error:
        stored = await _read(_reading, _FIND_KEY, identity) if idempotency_key else None
        if not stored:
            raise HTTPException(409, "A live user has this e-mail address.") from error
        if stored[0].request_hash != _digest(user):
            raise HTTPException(400, "This idempotency key was used for another request.") from error
        return Response(stored[0].response, media_type="application/json")


def _digest(user: UserWrite) -> bytes:
    return hashlib.sha256(user.model_dump_json().encode()).digest()


@app.patch("/v1/users/{id}")
async def update_user(id: UUID, user: UserUpdate, caller: Writer) -> Response:
    known = {"tenant": caller.tenant_id, "user": str(id)}
    values = {**known, "expected": int(user.etag.strip('"')), "name": user.display_name}
    rows = await _read(_reading, _UPDATE, values)
    if rows:
        return _json(_user(rows[0]))
    if await _read(_reading, _GET, known):
        raise HTTPException(409, "The user has changed.")
    raise HTTPException(404, "There is no user with this id.")


@app.get("/v1/agents/{id}")
async def get_agent(id: UUID, caller: Reader) -> Response:
    rows = await _read(_reading_agents, _GET_AGENT, {"tenant": caller.tenant_id, "agent": str(id)})
    if not rows:
        raise HTTPException(404, "There is no agent with this id.")
    row = rows[0]
    tools = [
        {"name": one["name"], "description": one["description"], "inputSchema": one["input_schema"]}
        for one in row.tools
    ]
    own = {"description": row.description, "model": row.model, "instructions": row.instructions, "tools": tools}
    parameters = {} if row.parameters is None else {"parameters": row.parameters}
    return _json({**_resource(row), **own, **parameters})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=PORT,
        loop="uvloop",
        http="httptools",
        access_log=False,
        timeout_keep_alive=IDLE_SECONDS,
        ssl_certfile=CERTIFICATE,
        ssl_keyfile=KEY,
    )
