"""What a migrated database has beside its tables: functions, triggers, views, policies and grants, as SQL.

`make catalog` writes what the services' migrations make of an empty database into `schema/`, with
which `test_schema` compares; do that only for a change that you want.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
from api_common.testing import create_database, postgres_server

from tests.services import built_services

FOLDER: Final = Path(__file__).resolve().parent / "schema"
COMMAND: Final = "make catalog"

_QUERIES: Final = (
    """
    SELECT 'function ' || proname AS name, pg_get_functiondef(oid) AS definition
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    """,
    """
    SELECT format('trigger %s on %s', tgname, tgrelid::regclass) AS name, pg_get_triggerdef(oid) AS definition
    FROM pg_trigger WHERE NOT tgisinternal
    """,
    """
    SELECT 'view ' || viewname AS name, 'CREATE VIEW ' || viewname || E' AS\n' || rtrim(definition, ';') AS definition
    FROM pg_views WHERE schemaname = 'public'
    """,
    """
    SELECT format('policy %s on %s', policyname, tablename) AS name,
        format(E'CREATE POLICY %s ON %s AS %s FOR %s TO %s\\n USING (%s)\\n WITH CHECK (%s)',
            policyname, tablename, permissive, cmd, array_to_string(roles, ', '), qual, with_check) AS definition
    FROM pg_policies WHERE schemaname = 'public'
    """,
    """
    SELECT format('grants on %s to %s', table_name, grantee) AS name, format('GRANT %s ON %s TO %s',
        string_agg(privilege_type, ', ' ORDER BY privilege_type), table_name, grantee) AS definition
    FROM information_schema.role_table_grants WHERE table_schema = 'public' AND grantee LIKE '%\\_app'
    GROUP BY table_name, grantee
    """,
)


async def catalog(connection: "asyncpg.Connection[Any]") -> dict[str, str]:
    """Returns the definitions by name."""
    found = [row for query in _QUERIES for row in await connection.fetch(query)]
    return {row["name"]: row["definition"].strip() for row in sorted(found, key=lambda row: row["name"])}


async def catalog_of(url: str) -> dict[str, str]:
    """Returns the definitions in the database at ``url``."""
    connection = await asyncpg.connect(url)
    try:
        return await catalog(connection)
    finally:
        await connection.close()


def text(definitions: dict[str, str]) -> str:
    """Returns ``definitions`` as the file holds them."""
    return "".join(f"-- {name}\n{definition};\n\n" for name, definition in definitions.items()).rstrip("\n") + "\n"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    with postgres_server() as url:
        for built in built_services():
            database = create_database(url, built.service.name, built.service.migrations)
            definitions = asyncio.run(catalog_of(database.admin_url))
            (FOLDER / f"{built}.sql").write_text(text(definitions))


if __name__ == "__main__":
    main()
