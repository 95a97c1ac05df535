"""Creates a service's database and its roles: an owner for migrations, an application role that owns nothing.

Migrations grant to the application role, which cannot log in. Logins are its members, so that one can be replaced.

The local runner and tests call it; an administrator calls it once for a managed server.
"""

import contextlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

# Roles belong to the whole server, so concurrent runners and test sessions take turns.
_LOCK: Final = 4_263_371_912

_FIRST_WITH_SELF_GRANT: Final = 16
_FIRST_WITH_BUILTIN_LOCALES: Final = 17
_LEAKPROOF: Final = "jsonb_contains(jsonb, jsonb)"
"""The function behind filters by label; `=`, `<` and the like are leakproof already (ADR 20)."""

_LARGE_OBJECTS: Final = ("lo_creat(integer)", "lo_create(oid)", "lo_from_bytea(oid, bytea)")


class UnsafeRoleError(Exception):
    """An existing role can bypass row-level security."""


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """The URLs of a service's database."""

    application: str
    """For a login of the role `<service>_app`, which requests use."""
    owner: str
    """For the role `<service>_owner`, which migrations use."""


async def provision(
    admin_url: str,
    service: str,
    *,
    database: str | None = None,
    login: str | None = None,
    application_password: str | None = None,
    owner_password: str | None = None,
) -> DatabaseUrls:
    """Creates the roles and the database of ``service`` where they are missing; an existing database keeps its data.

    Migrations grant the rights on the tables that they create.

    Args:
        admin_url: the URL of another database of the server, for a superuser or, on a managed server, for a role with
            CREATEDB and CREATEROLE.
        service: for example `users`; the prefix of the roles, and the name of the database unless ``database`` is set.
        login: the login of the application, `<service>_login` by default; another one replaces it, after a leak.

    Raises:
        UnsafeRoleError: a role of that name exists and is a superuser or bypasses row-level security.
    """
    database = database or service
    owner, application, login = f"{service}_owner", f"{service}_app", login or f"{service}_login"
    admin = await asyncpg.connect(admin_url)
    try:
        await admin.execute("SELECT pg_advisory_lock($1)", _LOCK)
        if admin.get_server_version().major >= _FIRST_WITH_SELF_GRANT:
            # Without this, an administrator who is no superuser cannot create a database for the owner that it created.
            await admin.execute("SET createrole_self_grant = 'set, inherit'")
        await _close_common_databases(admin)
        await _ensure_role(admin, owner, owner_password)
        await _ensure_role(admin, application, None, can="NOLOGIN")
        await _ensure_role(admin, login, application_password)
        await admin.execute(f"GRANT {_quoted(application)} TO {_quoted(login)}")
        if not await admin.fetchval("SELECT true FROM pg_database WHERE datname = $1", database):
            locale = _locale(admin.get_server_version().major)
            await admin.execute(
                f"CREATE DATABASE {_quoted(database)} OWNER {_quoted(owner)} TEMPLATE template0 ENCODING UTF8 {locale}"
            )
        await admin.execute(f"REVOKE ALL ON DATABASE {_quoted(database)} FROM PUBLIC")
        await admin.execute(f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {_quoted(application)}")
        inside = await asyncpg.connect(admin_url, database=database)
        try:
            await inside.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            await inside.execute(f"GRANT USAGE ON SCHEMA public TO {_quoted(application)}")
            await _say_as_superuser(inside)
        finally:
            await inside.close()
    finally:
        await admin.close()
    return DatabaseUrls(
        application=_url_as(admin_url, login, application_password, database),
        owner=_url_as(admin_url, owner, owner_password, database),
    )


async def _ensure_role(admin: asyncpg.Connection, role: str, password: str | None, *, can: str = "LOGIN") -> None:
    found = await admin.fetchrow("SELECT rolsuper OR rolbypassrls AS unsafe FROM pg_roles WHERE rolname = $1", role)
    if found is None:
        await admin.execute(f"CREATE ROLE {_quoted(role)} {can} NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS")
    elif found["unsafe"]:
        raise UnsafeRoleError(f"role {role} is a superuser or bypasses row-level security: ALTER it or DROP it")
    if password is not None:
        literal = await admin.fetchval("SELECT quote_literal($1::text)", password)
        await admin.execute(f"ALTER ROLE {_quoted(role)} PASSWORD {literal}")


async def _close_common_databases(admin: asyncpg.Connection) -> None:
    """Leaves the databases that every server has to those who need them; who provisions keeps the right to connect."""
    for database in ("postgres", "template1"):
        # On a managed server they belong to somebody else.
        with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
            await admin.execute(f"GRANT CONNECT ON DATABASE {database} TO CURRENT_USER")
            await admin.execute(f"REVOKE CONNECT, TEMPORARY ON DATABASE {database} FROM PUBLIC")


async def _say_as_superuser(inside: asyncpg.Connection) -> None:
    """Leaves the making of large objects, which no policy or quota covers, to superusers, and lets filters use indexes.

    A filter by label uses its index behind row-level security only if its function is leakproof. Runs every time,
    because neither a dump nor `pg_upgrade` keeps it. Only a superuser may say it, so on a managed server filters by
    label read all rows of the tenant.
    """
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await inside.execute(f"REVOKE EXECUTE ON FUNCTION {', '.join(_LARGE_OBJECTS)} FROM PUBLIC")
        await inside.execute(f"ALTER FUNCTION pg_catalog.{_LEAKPROOF} LEAKPROOF")


def _locale(version: int) -> str:
    """Returns the clause that orders texts by code point and folds case in all of Unicode, on every machine.

    Args:
        version: of the server; before 17 the C library folds case.
    """
    if version >= _FIRST_WITH_BUILTIN_LOCALES:
        return "LOCALE_PROVIDER builtin LOCALE 'C.UTF-8'"
    return "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _url_as(admin_url: str, role: str, password: str | None, database: str) -> str:
    """Returns the URL of a database of the same server, for another role."""
    parts = urlsplit(admin_url)
    credentials = quote(role, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    netloc = f"{credentials}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit((parts.scheme, netloc, f"/{quote(database, safe='')}", parts.query, ""))
