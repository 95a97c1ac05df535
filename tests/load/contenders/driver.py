"""The limit: a tenant-bound transaction on the driver and nothing else. No token, no validation, no metrics, no log."""

from typing import Any, Final

import asyncpg
import orjson
from ameide.user.v1 import user_pb2 as pb
from api_common.settings import Settings

from tests.load.bare import GetUser, serve
from tests.load.contender import Contender
from tests.load.stage import TENANT

DRIVER: Final = Contender(name="driver", module="tests.load.contenders.driver")

_BEGIN: Final = f"BEGIN READ ONLY; SELECT set_config('app.tenant_id', '{TENANT}', true)"
_GET: Final = "SELECT * FROM users WHERE tenant_id = $1 AND id = $2"


async def _make(settings: Settings) -> GetUser:
    database = settings.database
    # Without the reset that a release would otherwise send: one more round trip.
    pool = await asyncpg.create_pool(
        database.url.get_secret_value(), min_size=1, max_size=database.pool_size, reset=_keep
    )

    async def get_user(request: pb.GetUserRequest, context: Any) -> pb.User:
        async with pool.acquire() as connection:
            await connection.execute(_BEGIN)
            row = await connection.fetchrow(_GET, TENANT, request.id)
            await connection.execute("COMMIT")
        assert row is not None
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

    return get_user


async def _keep(_: object) -> None:
    """Leaves the session as it is."""


if __name__ == "__main__":
    serve(_make)
