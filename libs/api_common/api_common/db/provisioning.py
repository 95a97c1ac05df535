"""Creates a service's database: an owner that migrates the schema, an application role that owns nothing.

The local runner and tests use it; the administrator of a managed server does the same once.
"""

import contextlib
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

# Roles belong to the whole server: runners and test sessions that provision at the same time wait for each other.
_LOCK: Final = 4_263_371_912

_FIRST_WITH_SELF_GRANT: Final = 16
_FIRST_WITH_BUILTIN_LOCALES: Final = 17
_LEAKPROOF: Final = "jsonb_contains(jsonb, jsonb)"
"""The function behind filters on labels; `=`, `<` and the like are leakproof already (ADR 20)."""


class UnsafeRoleError(Exception):
    """An existing role bypasses row-level security."""


@dataclass(frozen=True, slots=True)
class DatabaseUrls:
    """The two ways into a service's database."""

    application: str
    """As `<service>_app`, the role of requests."""
    owner: str
    """As `<service>_owner`, the role of migrations."""


async def provision(
    admin_url: str,
    service: str,
    *,
    database: str | None = None,
    application_password: str | None = None,
    owner_password: str | None = None,
) -> DatabaseUrls:
    """Creates the roles and the database of ``service`` if they are missing; an existing database keeps its data.

    Rights on tables are granted by the migrations that make them.

    Args:
        admin_url: a connection to any database of the server but this one, as a superuser or, on a managed server, as
            a role with CREATEDB and CREATEROLE.
        service: `users`; names the roles, and the database unless ``database`` does.

    Raises:
        UnsafeRoleError: a role of that name exists and is a superuser or bypasses row-level security.
    """
    database = database or service
    owner, application = f"{service}_owner", f"{service}_app"
    admin = await asyncpg.connect(admin_url)
    try:
        await admin.execute("SELECT pg_advisory_lock($1)", _LOCK)
        if admin.get_server_version().major >= _FIRST_WITH_SELF_GRANT:
            # Otherwise an administrator who is no superuser may create the owner but not give it a database.
            await admin.execute("SET createrole_self_grant = 'set, inherit'")
        await _ensure_role(admin, owner, owner_password)
        await _ensure_role(admin, application, application_password)
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
            await _let_filters_use_indexes(inside)
        finally:
            await inside.close()
    finally:
        await admin.close()
    return DatabaseUrls(
        application=_url_as(admin_url, application, application_password, database),
        owner=_url_as(admin_url, owner, owner_password, database),
    )


async def _ensure_role(admin: asyncpg.Connection, role: str, password: str | None) -> None:
    found = await admin.fetchrow("SELECT rolsuper OR rolbypassrls AS unsafe FROM pg_roles WHERE rolname = $1", role)
    if found is None:
        await admin.execute(f"CREATE ROLE {_quoted(role)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS")
    elif found["unsafe"]:
        raise UnsafeRoleError(f"role {role} is a superuser or bypasses row-level security: ALTER it or DROP it")
    if password is not None:
        literal = await admin.fetchval("SELECT quote_literal($1::text)", password)
        await admin.execute(f"ALTER ROLE {_quoted(role)} PASSWORD {literal}")


async def _let_filters_use_indexes(inside: asyncpg.Connection) -> None:
    """Declares the function behind filters on labels leakproof; otherwise row-level security prevents index scans.

    It runs every time, not only in a new database: neither a dump nor `pg_upgrade` keeps the declaration. It needs a
    superuser, so on a managed server these filters read the rows of the tenant instead.
    """
    with contextlib.suppress(asyncpg.InsufficientPrivilegeError):
        await inside.execute(f"ALTER FUNCTION pg_catalog.{_LEAKPROOF} LEAKPROOF")


def _locale(version: int) -> str:
    """Returns the locale: order by code point, case folding for all of Unicode, the same on every machine.

    Args:
        version: of the server; before 17 the folding is the C library's.
    """
    if version >= _FIRST_WITH_BUILTIN_LOCALES:
        return "LOCALE_PROVIDER builtin LOCALE 'C.UTF-8'"
    return "LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'"


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _url_as(admin_url: str, role: str, password: str | None, database: str) -> str:
    """Returns the URL of the same server for another role."""
    parts = urlsplit(admin_url)
    credentials = quote(role, safe="") + (f":{quote(password, safe='')}" if password is not None else "")
    netloc = f"{credentials}@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit((parts.scheme, netloc, f"/{quote(database, safe='')}", parts.query, ""))
