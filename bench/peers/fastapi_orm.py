"""FastAPI, SQLAlchemy's ORM and PyJWT on uvicorn, each as its documentation shows it: the usual choice."""

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import jwt
import uuid_utils
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import ARRAY, DateTime, Text, Uuid, func, select, tuple_
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import StaleDataError

from bench.peers.auth import Caller, verify
from bench.peers.models import Agent, User, UserPage, Users, UserUpdate, UserWrite
from bench.peers.paging import from_token, to_token


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way
        dict[str, Any]: JSONB,
        list[dict[str, Any]]: JSONB,
        list[str]: ARRAY(Text),
        datetime: DateTime(timezone=True),
    }


class Resource:
    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(Uuid(as_uuid=False), primary_key=True, default=lambda: str(uuid_utils.uuid7()))
    display_name: Mapped[str]
    labels: Mapped[dict[str, Any]]
    state: Mapped[str]
    create_time: Mapped[datetime] = mapped_column(server_default=func.now())
    update_time: Mapped[datetime] = mapped_column(server_default=func.now(), onupdate=func.now())
    delete_time: Mapped[datetime | None]
    created_by: Mapped[str]


class UserRow(Resource, Base):
    __tablename__ = "users"

    email: Mapped[str]
    roles: Mapped[list[str]]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version, "eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's own way

    @property
    def etag(self) -> str:
        return f'"{self.version}"'


class AgentRow(Resource, Base):
    __tablename__ = "agents"

    description: Mapped[str]
    model: Mapped[str]
    instructions: Mapped[str]
    tools: Mapped[list[dict[str, Any]]]
    parameters: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    version: Mapped[int]

    @property
    def etag(self) -> str:
        return f'"{self.version}"'


class KeyRow(Base):
    __tablename__ = "idempotency_keys"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    principal: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[bytes]
    response: Mapped[bytes]
    expire_time: Mapped[datetime]


def _sessions(database: str) -> async_sessionmaker[AsyncSession]:
    url = os.environ[f"{database}_ADMIN_URL"].replace("postgresql:", "postgresql+asyncpg:")
    engine = create_async_engine(url, pool_size=int(os.environ[f"{database}_POOL"]), max_overflow=0)
    return async_sessionmaker(engine, expire_on_commit=False)


users_sessions, agents_sessions = _sessions("USERS"), _sessions("AGENTS")


async def users_session() -> AsyncIterator[AsyncSession]:
    async with users_sessions() as session:
        yield session


async def agents_session() -> AsyncIterator[AsyncSession]:
    async with agents_sessions() as session:
        yield session


async def reader(credentials: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]) -> Caller:
    try:
        caller = verify(credentials.credentials)
    except jwt.InvalidTokenError as error:
        raise HTTPException(401, "A valid credential is required.") from error
    if "read" not in caller.permissions:
        raise HTTPException(403, "The credential does not allow this.")
    return caller


async def writer(caller: Annotated[Caller, Depends(reader)]) -> Caller:
    if "write" not in caller.permissions:
        raise HTTPException(403, "The credential does not allow this.")
    return caller


Session = Annotated[AsyncSession, Depends(users_session)]
Reader = Annotated[Caller, Depends(reader)]
Writer = Annotated[Caller, Depends(writer)]
app = FastAPI()


@app.get("/v1/users:batchGet", response_model_exclude_none=True)
async def batch_get_users(
    ids: Annotated[list[UUID], Query(min_length=1, max_length=100)], session: Session, caller: Reader
) -> Users:
    wanted = [str(id) for id in ids]
    rows = await session.scalars(select(UserRow).where(UserRow.tenant_id == caller.tenant_id, UserRow.id.in_(wanted)))
    known = {row.id: row for row in rows}
    if len(known) < len(wanted):
        raise HTTPException(404, "There is no user with one of these ids.")
    return Users.model_validate({"users": [known[id] for id in wanted]})


@app.get("/v1/users/{id}", response_model=User, response_model_exclude_none=True)
async def get_user(id: UUID, session: Session, caller: Reader) -> UserRow:
    row = await session.get(UserRow, (caller.tenant_id, str(id)))
    if row is None:
        raise HTTPException(404, "There is no user with this id.")
    return row


@app.get("/v1/users", response_model_exclude_none=True)
async def list_users(
    session: Session,
    caller: Reader,
    page_size: Annotated[int, Query(ge=1, le=1000, alias="pageSize")] = 50,
    page_token: Annotated[str, Query(alias="pageToken")] = "",
) -> UserPage:
    found = select(UserRow).where(UserRow.tenant_id == caller.tenant_id, UserRow.delete_time.is_(None))
    if page_token:
        found = found.where(tuple_(UserRow.create_time, UserRow.id) < from_token(page_token))
    ordered = found.order_by(UserRow.create_time.desc(), UserRow.id.desc()).limit(page_size + 1)
    rows = (await session.scalars(ordered)).all()
    last = rows[page_size - 1] if len(rows) > page_size else None
    token = to_token(last.create_time, last.id) if last else ""
    return UserPage.model_validate({"users": rows[:page_size], "next_page_token": token})


@app.post("/v1/users", response_model=User, response_model_exclude_none=True)
async def create_user(
    user: UserWrite,
    session: Session,
    caller: Writer,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> Any:
    row = UserRow(tenant_id=caller.tenant_id, state="ACTIVE", created_by=caller.subject, **user.model_dump())
    session.add(row)
    try:
        if idempotency_key is None:
            await session.commit()
            return row
        await session.flush()
        body = User.model_validate(row).model_dump_json(by_alias=True, exclude_none=True).encode()
        digest = hashlib.sha256(user.model_dump_json().encode()).digest()
        expires = datetime.now(UTC) + timedelta(hours=24)
        identity = {"tenant_id": caller.tenant_id, "principal": caller.subject, "method": "POST /v1/users"}
        session.add(KeyRow(**identity, key=idempotency_key, request_hash=digest, response=body, expire_time=expires))
        await session.commit()
    except IntegrityError as error:
        await session.rollback()
        return await _replayed(error, user, session, caller, idempotency_key)
    return Response(body, media_type="application/json")


async def _replayed(
    error: IntegrityError, user: UserWrite, session: AsyncSession, caller: Caller, key: str | None
) -> Response:
    stored = await session.get(KeyRow, (caller.tenant_id, caller.subject, "POST /v1/users", key)) if key else None
    if stored is None:
        raise HTTPException(409, "A live user has this e-mail address.") from error
    if stored.request_hash != hashlib.sha256(user.model_dump_json().encode()).digest():
        raise HTTPException(400, "This idempotency key was used for another request.")
    return Response(stored.response, media_type="application/json")


@app.patch("/v1/users/{id}", response_model=User, response_model_exclude_none=True)
async def update_user(id: UUID, user: UserUpdate, session: Session, caller: Writer) -> UserRow:
    row = await session.get(UserRow, (caller.tenant_id, str(id)))
    if row is None or row.delete_time is not None:
        raise HTTPException(404, "There is no user with this id.")
    if row.etag != user.etag:
        raise HTTPException(409, "The user has changed.")
    row.display_name = user.display_name
    try:
        await session.commit()
    except StaleDataError as error:
        raise HTTPException(409, "The user has changed.") from error
    return row


@app.get("/v1/agents/{id}", response_model=Agent, response_model_exclude_none=True)
async def get_agent(id: UUID, session: Annotated[AsyncSession, Depends(agents_session)], caller: Reader) -> AgentRow:
    row = await session.get(AgentRow, (caller.tenant_id, str(id)))
    if row is None:
        raise HTTPException(404, "There is no agent with this id.")
    return row


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), loop="uvloop", http="httptools")
