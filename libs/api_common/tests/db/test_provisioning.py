"""A provisioned database keeps the application role away from everything but its rows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import uuid_utils
from api_common.db.provisioning import DatabaseUrls, UnsafeRoleError
from api_common.testing import provisioned


@pytest.fixture
async def name(postgres_url: str) -> AsyncIterator[str]:
    """The name of a service that no other test knows; its database and roles go with the test."""
    result = f"svc{uuid_utils.uuid4().hex[:12]}"
    yield result
    admin = await asyncpg.connect(postgres_url)
    await admin.execute(f"DROP DATABASE IF EXISTS {result} WITH (FORCE)")
    await admin.execute(f"DROP ROLE IF EXISTS {result}_owner, {result}_app, {result}_login, {result}_second")
    await admin.close()


ORDER = "SELECT string_agg(x, ',' ORDER BY x) FROM unnest(ARRAY['a', 'ä', 'z', '日', 'Z', 'A', 'Ä']) x"
LEAKPROOF = "SELECT proleakproof FROM pg_proc WHERE proname = 'jsonb_contains'"


async def read(urls: DatabaseUrls, query: str) -> Any:
    """Returns what the application reads."""
    connection = await asyncpg.connect(urls.application)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


class TestProvision:
    async def test_lets_the_owner_make_tables_and_the_application_only_use_them(
        self, postgres_url: str, name: str
    ) -> None:
        urls = await provisioned(postgres_url, name)
        await execute(urls.owner, "CREATE TABLE things (id int)", f"GRANT SELECT ON things TO {name}_app")
        await execute(urls.application, "SELECT * FROM things")
        for forbidden in (
            "CREATE TABLE mine (id int)",
            "DROP TABLE things",
            "CREATE SCHEMA mine",
            "CREATE TEMP TABLE t ()",
            "SELECT lo_create(0)",
            "SELECT lo_creat(-1)",
            "SELECT lo_from_bytea(0, 'x')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await execute(urls.application, forbidden)

    async def test_makes_roles_that_row_level_security_binds(self, postgres_url: str, name: str) -> None:
        await provisioned(postgres_url, name)
        admin = await asyncpg.connect(postgres_url)
        rights = await admin.fetch(
            "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname LIKE $1", f"{name}%"
        )
        logins = await admin.fetchval(
            "SELECT array_agg(rolname ORDER BY rolname) FROM pg_roles WHERE rolcanlogin AND rolname LIKE $1", f"{name}%"
        )
        await admin.close()
        assert [set(row.values()) for row in rights] == [{False}] * 3
        assert logins == [f"{name}_login", f"{name}_owner"]

    async def test_replaces_a_login_and_migrations_grant_as_before(self, postgres_url: str, name: str) -> None:
        """As docs/security.md says, after a password has leaked."""
        before = await provisioned(postgres_url, name, application_password="leaked")
        await execute(before.owner, "CREATE TABLE things (id int)", f"GRANT SELECT ON things TO {name}_app")
        after = await provisioned(postgres_url, name, login=f"{name}_second", application_password="new")
        await execute(before.application, "SELECT * FROM things")
        await execute(after.application, "SELECT * FROM things")
        await execute(postgres_url, f"DROP ROLE {name}_login")
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await execute(before.application, "SELECT 1")
        await execute(after.owner, "CREATE TABLE more (id int)", f"GRANT SELECT ON more TO {name}_app")
        await execute(after.application, "SELECT * FROM things, more")

    async def test_keeps_other_services_out(self, postgres_url: str, name: str) -> None:
        ours, theirs = (
            await provisioned(postgres_url, name),
            await provisioned(postgres_url, "users", database=f"{name}_u"),
        )
        try:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await execute(urlsplit(ours.application)._replace(path=f"/{name}_u").geturl(), "SELECT 1")
        finally:
            await execute(postgres_url, f"DROP DATABASE {name}_u")
        assert theirs.application != ours.application

    @pytest.mark.parametrize("database", ["postgres", "template1"])
    async def test_keeps_the_application_out_of_the_servers_own_databases(
        self, postgres_url: str, name: str, database: str
    ) -> None:
        urls = await provisioned(postgres_url, name)
        for url in (urls.application, urls.owner):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await execute(urlsplit(url)._replace(path=f"/{database}").geturl(), "SELECT 1")

    async def test_keeps_the_data_when_it_runs_again(self, postgres_url: str, name: str) -> None:
        urls = await provisioned(postgres_url, name)
        await execute(urls.owner, "CREATE TABLE things (id int)")
        assert await provisioned(postgres_url, name) == urls
        await execute(urls.owner, "SELECT * FROM things")

    async def test_runs_side_by_side(self, postgres_url: str, name: str) -> None:
        results = await asyncio.gather(*(provisioned(postgres_url, name) for _ in range(5)))
        assert len(set(results)) == 1

    async def test_refuses_a_role_that_sees_around_the_policies(self, postgres_url: str, name: str) -> None:
        await execute(postgres_url, f"CREATE ROLE {name}_app LOGIN BYPASSRLS")
        with pytest.raises(UnsafeRoleError, match=f"{name}_app"):
            await provisioned(postgres_url, name)

    async def test_orders_by_code_point_and_folds_every_letter(self, postgres_url: str, name: str) -> None:
        assert await read(await provisioned(postgres_url, name), ORDER) == "A,Z,a,z,Ä,ä,日"
        assert await read(await provisioned(postgres_url, name), "SELECT lower('ÄЖ')") == "äж"

    async def test_does_the_same_before_there_were_builtin_locales(self, name: str, older_postgres_url: str) -> None:
        urls = await provisioned(older_postgres_url, name)
        assert await read(urls, "SHOW server_version_num") < "170000"
        assert await read(urls, ORDER) == "A,Z,a,z,Ä,ä,日"
        assert await read(urls, "SELECT lower('ÄЖ')") == "äж"

    async def test_lets_row_level_security_use_the_index_of_labels(self, postgres_url: str, name: str) -> None:
        urls = await provisioned(postgres_url, name)
        assert await read(urls, LEAKPROOF) is True
        # As after `pg_upgrade`, or a restored dump.
        inside = urlsplit(postgres_url)._replace(path=f"/{name}").geturl()
        await execute(inside, "ALTER FUNCTION jsonb_contains(jsonb, jsonb) NOT LEAKPROOF")
        assert await read(await provisioned(postgres_url, name), LEAKPROOF) is True

    async def test_works_without_a_superuser(self, postgres_url: str, name: str) -> None:
        """As on a managed server; what only a superuser may say stays unsaid."""
        admin = f"{name}_admin"
        await execute(postgres_url, f"CREATE ROLE {admin} LOGIN PASSWORD 'of a test' CREATEDB CREATEROLE")
        await execute(postgres_url, f"GRANT CONNECT ON DATABASE postgres TO {admin}")
        try:
            parts = urlsplit(postgres_url)
            host = parts.netloc.rpartition("@")[2]
            urls = await provisioned(parts._replace(netloc=f"{admin}:of%20a%20test@{host}").geturl(), name)
            await execute(urls.owner, "CREATE TABLE things (id int)", f"GRANT SELECT ON things TO {name}_app")
            await execute(urls.application, "SELECT * FROM things")
            assert await read(urls, LEAKPROOF) is False
        finally:
            await execute(
                postgres_url,
                f"DROP DATABASE IF EXISTS {name}",
                f"DROP OWNED BY {admin}",
                f"DROP ROLE IF EXISTS {name}_owner, {name}_app, {name}_login, {admin}",
            )

    async def test_quotes_what_it_is_given(self, postgres_url: str, name: str) -> None:
        urls = await provisioned(postgres_url, name, application_password="p'@:/?", owner_password="o")
        assert f"//{name}_login:p%27%40%3A%2F%3F@" in urls.application
        await execute(urls.application, "SELECT 1")
        assert isinstance(urls, DatabaseUrls)
