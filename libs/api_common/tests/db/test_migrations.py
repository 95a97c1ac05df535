"""An older release runs on the schema of a newer one, and its `migrate` leaves that alone."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.db import DatabaseUrls, schema_head, upgrade_schema
from api_common.server import Service, StartError, run_service, running
from api_common.settings import DatabaseSettings, Settings
from api_common.testing import Caller, Identity, TestDatabase, provisioned, running_service, settings_for
from pydantic import SecretStr
from structlog.testing import capture_logs

from libs.api_common.tests.example.service import SERVICE, create_user
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

NEXT_REVISION = f"{int(schema_head(SERVICE.migrations)) + 1:04}"
# What a release may do to the schema that the one before still uses: it adds.
NEXT_RELEASE = f"""
from alembic import op

revision = "{NEXT_REVISION}"
down_revision = "{schema_head(SERVICE.migrations)}"


def upgrade() -> None:
    op.execute("ALTER TABLE users ADD COLUMN nickname text NOT NULL DEFAULT '', ADD COLUMN mentor_id uuid")
    op.execute("CREATE INDEX ix_users_tenant_id_nickname ON users (tenant_id, nickname)")
    op.execute("CREATE TABLE badges (tenant_id text NOT NULL, id uuid NOT NULL, PRIMARY KEY (tenant_id, id))")
"""


@pytest.fixture
async def next_urls(postgres_url: str, tmp_path: Path) -> AsyncIterator[DatabaseUrls]:
    """A database that the next release has migrated."""
    folder = tmp_path / "migrations"
    shutil.copytree(SERVICE.migrations, folder)
    (folder / "versions" / f"{NEXT_REVISION}_next_release.py").write_text(NEXT_RELEASE)
    name = f"example_next_{os.getpid()}"
    urls = await provisioned(postgres_url, SERVICE.name, database=name)
    await asyncio.to_thread(upgrade_schema, folder, urls.owner)
    yield urls
    server = await asyncpg.connect(postgres_url)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest.fixture
def next_settings(next_urls: DatabaseUrls, users_database: TestDatabase, identity: Identity) -> Settings:
    settings = settings_for(users_database, identity)
    return replace(settings, database=DatabaseSettings(url=SecretStr(next_urls.application), pool_size=2))


async def test_a_release_runs_on_the_schema_of_the_next_one(next_settings: Settings, admin: Caller) -> None:
    with capture_logs() as logs:
        async with running_service(SERVICE, next_settings) as service:
            users: UserServiceAsyncStub = UserServiceStub(service.channel)
            user = await create_user(users, admin)
            renamed = pb.User(id=user.id, display_name="Renamed")
            changed = await users.UpdateUser(pb.UpdateUserRequest(user=renamed), metadata=admin.metadata)
            assert await users.GetUser(pb.GetUserRequest(id=user.id), metadata=admin.metadata) == changed
            listed = await users.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
            assert list(listed.users) == [changed]
            async with watching(users.WatchUsers, pb.WatchUsersRequest(initial_state=True), admin) as watch:
                assert await watch.change() == ("created", changed)
                await users.DeleteUser(pb.DeleteUserRequest(id=user.id), metadata=admin.metadata)
                assert (await watch.change())[0] == "deleted"
    newer: dict[str, Any] = {"event": "the schema is newer than this release", "log_level": "warning"}
    assert {**newer, "schema": NEXT_REVISION, "release": schema_head(SERVICE.migrations)} in logs


async def test_migrate_leaves_a_newer_schema_alone_and_says_so(
    next_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["example_service", "migrate"])
    monkeypatch.setattr("api_common.server.main.configure_logging", lambda *_: None)
    monkeypatch.setenv("EXAMPLE_DATABASE_OWNER_URL", next_urls.owner)
    with capture_logs() as logs:
        await asyncio.to_thread(run_service, SERVICE)
    assert [entry["event"] for entry in logs] == ["nothing to migrate: the schema is newer than this release"]
    owner = await asyncpg.connect(next_urls.owner)
    assert await owner.fetchval("SELECT version_num FROM alembic_version") == NEXT_REVISION
    await owner.close()


@pytest.fixture
def later(tmp_path: Path) -> Service:
    """The example, whose first released schema is newer than the database."""
    folder = tmp_path / "later" / "versions"
    folder.mkdir(parents=True)
    (folder / "9999_baseline.py").write_text('revision, down_revision = "9999", None\n')
    return replace(SERVICE, migrations=folder.parent)


async def test_migrate_refuses_a_schema_from_before_the_first_release(
    later: Service, next_urls: DatabaseUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["example_service", "migrate"])
    monkeypatch.setattr("api_common.server.main.configure_logging", lambda *_: None)
    monkeypatch.setenv("EXAMPLE_DATABASE_OWNER_URL", next_urls.owner)
    told = f"example: the schema is at revision {NEXT_REVISION}, and the first released one is 9999 .* `make reset`"
    with pytest.raises(SystemExit, match=told):
        await asyncio.to_thread(run_service, later)


async def test_a_release_refuses_a_schema_that_is_older(next_settings: Settings, later: Service) -> None:
    with pytest.raises(StartError, match=f"the schema is at revision {NEXT_REVISION}, this release needs 9999"):
        async with running(later, next_settings, credentials=None):
            pass
