"""The stage of all contenders: Postgres with users and an agent, certificates, an issuer, free ports."""

import asyncio
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import orjson
import uuid_utils
from ameide.agent.v1 import agent_pb2
from ameide.user.v1 import user_pb2 as pb
from api_common.db import upgrade_schema
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from tests.ports import mesh_offset
from tools.mesh import postgres, preparation
from tools.secrets import identity
from tools.topology import ROOT, SERVICES, Mesh

TENANT: Final = "bench"
WRITTEN: Final = "bench-written"
"""The tenant whose users change, so that reads of the other tenant always see the same rows."""
NEEDED: Final = ("users", "agents")
"""The services that run."""
POOLS: Final = {"users": 10, "agents": 3}
"""Connections of one contender to each database."""
_CONNECTIONS: Final = 200
"""The limit of Postgres: more than all contenders together open."""
_USERS: Final = 1000
_TOOLS: Final = 90


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts that all contenders share."""

    folder: Path
    mesh: Mesh
    environments: Mapping[str, Mapping[str, str]]
    """The environment of each service, by its name."""
    tokens: Mapping[str, str]
    """A token with every needed permission, by tenant."""
    admin_urls: Mapping[str, str]
    """A superuser's connection to the database of each service."""
    postmaster: int
    """Process id of Postgres."""

    @property
    def admin_url(self) -> str:
        """A superuser's connection to the users' database."""
        return self.admin_urls["users"]


@contextmanager
def set_stage() -> Iterator[Stage]:
    """Yields a new stage, and removes it at the end."""
    with tempfile.TemporaryDirectory(prefix="bench") as name, mesh_offset() as offset:
        folder = Path(name)
        # Postgres runs as another user.
        folder.chmod(0o755)
        mesh = Mesh(folder / "mesh", offset)
        mesh.folder.mkdir()
        try:
            yield _prepare(folder, mesh)
        finally:
            postgres.stop(mesh.postgres)


def users_of(folder: Path, tenant: str = TENANT) -> Sequence[pb.User]:
    """Returns the users of a tenant of the stage in ``folder``, as contenders must return them."""
    return pb.ListUsersResponse.FromString((folder / f"{tenant}.pb").read_bytes()).users


def agent_of(folder: Path) -> agent_pb2.Agent:
    """Returns the agent, which is one megabyte large."""
    return agent_pb2.Agent.FromString((folder / "agent.pb").read_bytes())


def _prepare(folder: Path, mesh: Mesh) -> Stage:
    preparation.ensure_secrets(mesh)
    urls = preparation.ensure_databases(mesh)
    _admit_all(mesh.postgres)
    for service in NEEDED:
        upgrade_schema(ROOT / "services" / service / "migrations", urls[service].owner)
    admin_url = postgres.start(mesh.postgres)
    admin_urls = {name: urlsplit(admin_url)._replace(path=urlsplit(urls[name].owner).path).geturl() for name in NEEDED}
    for tenant in (TENANT, WRITTEN):
        users = list(_make_users(random.Random(tenant), tenant))
        (folder / f"{tenant}.pb").write_bytes(pb.ListUsersResponse(users=users).SerializeToString())
        asyncio.run(_store_users(admin_urls["users"], users))
    agent = _make_agent()
    (folder / "agent.pb").write_bytes(agent.SerializeToString())
    asyncio.run(_store_agent(admin_urls["agents"], agent))
    tokens = {
        tenant: identity.mint(mesh.issuer, sub="ada", tenant=tenant, roles=["admin"]) for tenant in (TENANT, WRITTEN)
    }
    environments = {
        service.name: {
            **preparation.environment(mesh, service, urls),
            f"{service.name.upper()}_DATABASE_POOL_SIZE": str(POOLS[service.name]),
            "BENCH_FOLDER": str(folder),
        }
        for service in SERVICES
        if service.name in NEEDED
    }
    postmaster = postgres.pid(mesh.postgres)
    assert postmaster is not None
    return Stage(folder, mesh, environments, tokens, admin_urls, postmaster)


def _admit_all(folder: Path) -> None:
    """Lets Postgres take the connections of all contenders; its default is a hundred."""
    admin_url = postgres.start(folder)

    async def set_limit() -> None:
        connection = await asyncpg.connect(admin_url)
        try:
            await connection.execute(f"ALTER SYSTEM SET max_connections = {_CONNECTIONS}")
        finally:
            await connection.close()

    asyncio.run(set_limit())
    postgres.stop(folder)
    postgres.start(folder)


def _make_users(chance: random.Random, tenant: str) -> Iterator[pb.User]:
    for number in range(_USERS):
        created = chance.randrange(1_700_000_000, 1_760_000_000)
        yield pb.User(
            id=str(uuid_utils.uuid7()),
            tenant_id=tenant,
            display_name=f"User {number}",
            labels={"team": f"team-{number % 10}", "site": "berlin"},
            state=pb.User.ACTIVE,
            create_time=Timestamp(seconds=created, nanos=_nanos(chance)),
            update_time=Timestamp(seconds=created + 86_400, nanos=_nanos(chance)),
            created_by="ada",
            etag=f'"{number % 5 + 1}"',
            email=f"user{number}@example.com",
            roles=["viewer", "editor"],
        )


def _nanos(chance: random.Random) -> int:
    # Every JSON writer prints an odd number of microseconds with six digits, but not whole milliseconds.
    return (chance.randrange(1_000_000) | 1) * 1000


def _make_agent() -> agent_pb2.Agent:
    words = "Looks up what the supplier promised and says so in one sentence. "
    schema = json_format.ParseDict(
        {"type": "object", "properties": {"name": {"type": "string"}, "limit": {"type": "integer", "maximum": 50}}},
        Struct(),
    )
    tools = [
        agent_pb2.Tool(name=f"tool_{number}", description=(words * 200)[:9_900], input_schema=schema)
        for number in range(_TOOLS)
    ]
    return agent_pb2.Agent(
        id=str(uuid_utils.uuid7()),
        tenant_id=TENANT,
        display_name="A megabyte",
        state=agent_pb2.Agent.DRAFT,
        create_time=Timestamp(seconds=1_760_000_000, nanos=123_456_000),
        update_time=Timestamp(seconds=1_760_000_001, nanos=123_456_000),
        created_by="ada",
        etag='"1"',
        description="Answers about suppliers.",
        model="model-1",
        instructions=(words * 1600)[:100_000],
        tools=tools,
        parameters=json_format.ParseDict({"temperature": 0.2}, Struct()),
    )


async def _store_users(url: str, users: Sequence[pb.User]) -> None:
    columns = (
        *("tenant_id", "id", "display_name", "labels", "state", "email", "roles"),
        *("create_time", "update_time", "created_by", "version"),
    )
    connection = await asyncpg.connect(url)
    try:
        await connection.copy_records_to_table("users", records=map(_record, users), columns=columns)
        await connection.execute("ANALYZE users")
    finally:
        await connection.close()


async def _store_agent(url: str, agent: agent_pb2.Agent) -> None:
    values = {
        **{name: getattr(agent, name) for name in ("tenant_id", "id", "display_name", "created_by")},
        **{name: getattr(agent, name) for name in ("description", "model", "instructions")},
        "state": "DRAFT",
        "create_time": agent.create_time.ToDatetime(UTC),
        "update_time": agent.update_time.ToDatetime(UTC),
        "tools": orjson.dumps(
            [
                {
                    "name": tool.name,
                    "description": tool.description,
                    "input_schema": json_format.MessageToDict(tool.input_schema),
                }
                for tool in agent.tools
            ]
        ).decode(),
        "parameters": orjson.dumps(json_format.MessageToDict(agent.parameters)).decode(),
    }
    marks = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"INSERT INTO agents ({', '.join(values)}) VALUES ({marks})", *values.values())
    finally:
        await connection.close()


def _record(user: pb.User) -> tuple[object, ...]:
    times = (user.create_time.ToDatetime(UTC), user.update_time.ToDatetime(UTC))
    labels = orjson.dumps(dict(user.labels)).decode()
    state, version = pb.User.State.Name(user.state), int(user.etag.strip('"'))
    return (
        *(user.tenant_id, user.id, user.display_name, labels, state, user.email, list(user.roles)),
        *(*times, user.created_by, version),
    )
