"""The lower bound: tenant-bound transactions on the driver, without token, validation, metrics or log.

A read is one statement (ADR 30), a write is between BEGIN and COMMIT.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from api_common.settings import Settings

from bench.peers.bare import Methods, serve
from bench.peers.paging import to_token
from bench.stage import TENANT, WRITTEN

_BEGIN: Final = "BEGIN; SELECT set_config('app.tenant_id', '{}', true)"

_READ: Final = (
    "SELECT own.* FROM (SELECT set_config('app.tenant_id', $1, true) AS tenant OFFSET 0) AS bound"
    " CROSS JOIN LATERAL (SELECT * FROM ({}) AS shown WHERE bound.tenant IS NOT NULL OFFSET 0) AS own"
)
_GET: Final = _READ.format("SELECT * FROM users WHERE tenant_id = $1::text AND id = $2")
_BATCH: Final = _READ.format("SELECT * FROM users WHERE tenant_id = $1::text AND id = ANY($2::uuid[])")
_PAGE: Final = _READ.format(
    "SELECT * FROM users WHERE tenant_id = $1::text AND delete_time IS NULL ORDER BY create_time DESC, id DESC LIMIT $2"
)
_INSERT: Final = (
    "INSERT INTO users (tenant_id, id, display_name, labels, state, created_by, email, roles)"
    " VALUES ($1, $2, $3, $4, 'ACTIVE', 'ada', $5, $6) RETURNING *"
)
_INSERT_KEY: Final = "INSERT INTO idempotency_keys VALUES ($1, 'ada', 'create', $2, $3, $4, $5)"
_UPDATE: Final = (
    "UPDATE users SET display_name = $4, version = version + 1, update_time = now()"
    " WHERE tenant_id = $1 AND id = $2 AND version = $3 AND delete_time IS NULL RETURNING *"
)


class Driver:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def get_user(self, request: pb.GetUserRequest, context: Any) -> pb.User:
        return _user(await self._pool.fetchrow(_GET, TENANT, request.id))

    async def list_users(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        rows = await self._pool.fetch(_PAGE, TENANT, request.page_size + 1)
        shown, last = rows[: request.page_size], rows[request.page_size - 1]
        return pb.ListUsersResponse(
            users=map(_user, shown), next_page_token=to_token(last["create_time"], str(last["id"]))
        )

    async def batch_get_users(self, request: pb.BatchGetUsersRequest, context: Any) -> pb.BatchGetUsersResponse:
        rows = await self._pool.fetch(_BATCH, TENANT, list(request.ids))
        known = {str(row["id"]): row for row in rows}
        return pb.BatchGetUsersResponse(users=[_user(known[id]) for id in request.ids])

    async def create_user(self, request: pb.CreateUserRequest, context: Any) -> pb.User:
        key = dict(tuple(context.invocation_metadata())).get("idempotency-key")
        user = request.user
        labels = orjson.dumps(dict(user.labels)).decode()
        own = (WRITTEN, str(uuid_utils.uuid7()), user.display_name, labels, user.email, list(user.roles))
        async with self._transaction(WRITTEN) as connection:
            created = _user(await connection.fetchrow(_INSERT, *own))
            if key:
                digest, expires = hashlib.sha256(request.SerializeToString()).digest(), datetime.now(UTC) + timedelta(1)
                await connection.execute(_INSERT_KEY, WRITTEN, key, digest, created.SerializeToString(), expires)
        return created

    async def update_user(self, request: pb.UpdateUserRequest, context: Any) -> pb.User:
        user = request.user
        async with self._transaction(WRITTEN) as connection:
            expected = int(user.etag.strip('"'))
            return _user(await connection.fetchrow(_UPDATE, WRITTEN, user.id, expected, user.display_name))

    @asynccontextmanager
    async def _transaction(self, tenant: str) -> AsyncIterator[Any]:
        async with self._pool.acquire() as connection:
            await connection.execute(_BEGIN.format(tenant))
            try:
                yield connection
            except BaseException:
                await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")


async def _make(settings: Settings) -> Methods:
    database = settings.database
    # Avoids the reset that a release would send: one more round trip.
    pool = await asyncpg.create_pool(
        database.url.get_secret_value(), min_size=1, max_size=database.pool_size, reset=_keep
    )
    driver = Driver(pool)
    return {
        "GetUser": driver.get_user,
        "ListUsers": driver.list_users,
        "BatchGetUsers": driver.batch_get_users,
        "CreateUser": driver.create_user,
        "UpdateUser": driver.update_user,
    }


async def _keep(_: object) -> None:
    """Leaves the session as it is."""


def _user(row: Any) -> pb.User:
    return pb.User(
        id=str(row["id"]),
        tenant_id=row["tenant_id"],
        display_name=row["display_name"],
        labels=orjson.loads(row["labels"]),
        state=row["state"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        delete_time=row["delete_time"],
        created_by=row["created_by"],
        etag=f'"{row["version"]}"',
        email=row["email"],
        roles=row["roles"],
    )


if __name__ == "__main__":
    serve(_make)
