"""What every contender stands on: users in a Postgres, certificates, an issuer, one environment."""

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Final

import asyncpg
import orjson
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from api_common.testing.database import TestDatabase, create_database, postgres_server
from api_common.testing.identity import AUDIENCE, ISSUER, Caller, Identity
from cryptography.fernet import Fernet
from google.protobuf.timestamp_pb2 import Timestamp
from users_service.service import SERVICE

from tools import certificates, internal_keys

TENANT: Final = "bench"
_USERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that contenders share."""

    folder: Path
    environment: dict[str, str]
    """What the users service is told; the other contenders read the same."""
    caller: Caller
    admin_url: str
    """A superuser's connection to the users' database."""
    postmaster: int | None
    """Process id of Postgres, if it runs on this machine."""


@contextmanager
def set_stage() -> Iterator[Stage]:
    """Yields a stage of its own and takes it down again."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, postgres_server() as admin_url:
        folder = Path(name)
        certificates.ensure(folder / "certificates")
        identity = Identity(folder)
        database = create_database(admin_url, SERVICE.name, SERVICE.migrations)
        users = list(_make_users(random.Random(1)))
        (folder / "users.pb").write_bytes(pb.ListUsersResponse(users=users).SerializeToString())
        postmaster = asyncio.run(_fill(database.admin_url, users))
        environment = _environment(folder, database, identity)
        yield Stage(folder, environment, identity.caller(TENANT, "viewer"), database.admin_url, postmaster)


def users_of(folder: Path) -> Sequence[pb.User]:
    """Returns the users of the stage in ``folder``, as they must be answered."""
    return pb.ListUsersResponse.FromString((folder / "users.pb").read_bytes()).users


def _make_users(chance: random.Random) -> Iterator[pb.User]:
    for number in range(_USERS):
        created = chance.randrange(1_700_000_000, 1_760_000_000)
        yield pb.User(
            id=str(uuid_utils.uuid7()),
            tenant_id=TENANT,
            display_name=f"User {number}",
            labels={"team": f"team-{number % 10}", "site": "berlin"},
            state=pb.User.ACTIVE,
            create_time=Timestamp(seconds=created, nanos=chance.randrange(1_000_000) * 1000),
            update_time=Timestamp(seconds=created + 86_400, nanos=chance.randrange(1_000_000) * 1000),
            created_by="ada",
            etag=f'"{number % 5 + 1}"',
            email=f"user{number}@example.com",
            roles=["viewer", "editor"],
        )


async def _fill(admin_url: str, users: Sequence[pb.User]) -> int | None:
    columns = (
        *("tenant_id", "id", "display_name", "labels", "state", "email", "roles"),
        *("create_time", "update_time", "created_by", "version"),
    )
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.copy_records_to_table("users", records=map(_record, users), columns=columns)
        await connection.execute("ANALYZE users")
        data = Path(await connection.fetchval("SHOW data_directory"))
    finally:
        await connection.close()
    try:
        return int((data / "postmaster.pid").read_text().split()[0])
    except FileNotFoundError:
        return None


def _record(user: pb.User) -> tuple[object, ...]:
    times = (user.create_time.ToDatetime(UTC), user.update_time.ToDatetime(UTC))
    labels = orjson.dumps(dict(user.labels)).decode()
    state, version = pb.User.State.Name(user.state), int(user.etag.strip('"'))
    return (
        *(user.tenant_id, user.id, user.display_name, labels, state, user.email, list(user.roles)),
        *(*times, user.created_by, version),
    )


def _environment(folder: Path, database: TestDatabase, identity: Identity) -> dict[str, str]:
    internal_keys.ensure(folder)
    settings = {
        "SERVER_HOST": "127.0.0.1",
        "SERVER_GRPC_PORT": 0,
        "SERVER_OPERATIONS_PORT": 0,
        "SERVER_DRAIN_DELAY_SECONDS": 0,
        "DATABASE_URL": database.url,
        "TLS_CERTIFICATE_PATH": folder / "certificates" / "users.pem",
        "TLS_PRIVATE_KEY_PATH": folder / "certificates" / "users.key",
        "TLS_CA_PATH": folder / "certificates" / "ca.pem",
        "AUTH_ISSUER": ISSUER,
        "AUTH_AUDIENCE": AUDIENCE,
        "AUTH_JWKS_PATH": identity.jwks_path,
        "AUTH_INTERNAL_JWKS_PATH": folder / "internal-jwks.json",
        "APIKEYS_PEPPER": (folder / "pepper").read_text(),
        "APIKEYS_SIGNING_KEY_PATH": folder / "internal.pem",
        "PAGINATION_KEYS": Fernet.generate_key().decode(),
    }
    named = {f"USERS_{name}": str(value) for name, value in settings.items()}
    return {**os.environ, **named, "BENCH_FOLDER": str(folder)}
