"""Counts what a service in this process asks of its database."""

from typing import Any

from api_common.db import Statement

Statements = list[str]
"""The SQL of every statement of a handler, in order; what opens and ends the transaction is not in it."""


def recording(seen: Statements, run: Any) -> Any:
    """Returns ``run``, a method of `Transaction`, that notes each statement before it runs it."""

    async def noted(transaction: Any, statement: Statement, values: Any) -> Any:
        # A task, which has no tenant, is no handler and comes whenever it likes.
        if transaction.tenant_id:
            seen.append(statement.sql)
        return await run(transaction, statement, values)

    return noted
