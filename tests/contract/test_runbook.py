"""The SQL that the runbook tells to type runs on today's schema, as it stands on the page."""

import re
from typing import Final

import asyncpg
from api_common.testing import TestDatabase

from tests.services import Built, built_services
from tools.topology import ROOT

_PAGE: Final = (ROOT / "docs" / "runbook.md").read_text()
_SQL: Final = r"(?:select|update|delete|set)\b"
STATEMENTS: Final = [
    *re.findall(rf'^    psql "\$\w+" -c "\s*({_SQL}[^"]+)"$', _PAGE, re.MULTILINE | re.IGNORECASE),
    *re.findall(rf"`({_SQL} [^`]+)`", _PAGE, re.IGNORECASE),
    *re.findall(rf"^((?:    {_SQL}.+\n)+)", _PAGE, re.MULTILINE | re.IGNORECASE),
]
_EVERYWHERE: Final = {"pg_stat_activity"}


def tables(statement: str) -> set[str]:
    return set(re.findall(r"\b(?:from|update) (\w+)", statement, re.IGNORECASE)) - _EVERYWHERE


def test_each_statement_has_a_service_that_has_its_tables() -> None:
    assert len(STATEMENTS) >= 5
    known = [set(built.metadata.tables) for built in built_services()]
    assert [one for one in STATEMENTS if not any(tables(one) <= has for has in known)] == []


async def test_the_statements_run_where_their_tables_are(built: Built, database: TestDatabase) -> None:
    for statement in STATEMENTS:
        if tables(statement) <= set(built.metadata.tables):
            # What names a task is for the owner, whom row-level security binds; the page says so.
            connection = await asyncpg.connect(database.owner_url if "app.task" in statement else database.admin_url)
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(statement.replace("…", "NULL"))
            await transaction.rollback()
            await connection.close()
