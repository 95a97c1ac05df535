"""What a compiled statement declares of itself."""

import pytest
from api_common.db.driver import compile_statement
from sqlalchemy import BigInteger, ClauseElement, Column, MetaData, Table, Text, delete, func, insert, select, update

from libs.api_common.tests.example.service import users

accounts = Table("accounts", MetaData(), Column("id", Text), Column("version", BigInteger))
keys = Table("keys", MetaData(), Column("id", Text), Column("account_id", Text))

CHANGED = update(users).values(version=2).returning(users.c.id).cte("changed")
LOCKED = select(users.c.id).with_for_update().cte("locked")


@pytest.mark.parametrize(
    "clause",
    [
        insert(users).values(tenant_id="acme", id="1"),
        update(users).values(version=2),
        delete(users),
        select(func.count()).select_from(CHANGED),
        select(select(CHANGED).subquery()),
    ],
    ids=["insert", "update", "delete", "a common table expression", "a subquery of one"],
)
def test_writes_if_any_part_of_it_does(clause: ClauseElement) -> None:
    statement = compile_statement(clause)
    assert statement.writes
    assert not statement.alone


@pytest.mark.parametrize("clause", [select(users), select(users).with_for_update(), select(LOCKED)])
def test_does_not_write_if_it_reads_or_locks(clause: ClauseElement) -> None:
    statement = compile_statement(clause)
    assert not statement.writes
    assert statement.alone


@pytest.mark.parametrize(
    ("clause", "summary"),
    [
        (
            select(keys.c.id).join(accounts, accounts.c.id == keys.c.account_id),
            "keys",
        ),
        (select(select(users).subquery("page")), "users"),
    ],
)
def test_of_a_read_names_the_table_that_is_read(clause: ClauseElement, summary: str) -> None:
    assert compile_statement(clause).summary == f"SELECT {summary}"


def test_names_the_table_that_is_written() -> None:
    free = select(users.c.id).with_for_update().cte("free")
    clause = update(accounts).where(accounts.c.id.in_(select(free.c.id))).values(version=2)
    assert compile_statement(clause).summary == "UPDATE accounts"


def test_without_a_table_has_a_verb_only() -> None:
    assert compile_statement(select(func.now())).summary == "SELECT"


def test_is_read_part_by_part_and_never_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are shared: a page of changes has 270, and 30,000 ways lead to them."""
    clause = select(users.c.id)
    for _ in range(3):
        inner = clause.cte()
        clause = select(inner.c.id).where(inner.c.id.in_(select(inner.c.id)))
    asked = list[str]()

    def parts_of(table: Table, **_: object) -> list[ClauseElement]:
        asked.append(table.name)
        return []

    monkeypatch.setattr(Table, "get_children", parts_of)
    assert compile_statement(clause).summary == "SELECT users"
    assert asked == ["users"]
