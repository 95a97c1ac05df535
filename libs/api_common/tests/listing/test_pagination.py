"""Pages: their size, their tokens, and that a walk through them misses nothing."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from api_common.errors import ValidationError
from api_common.listing import InvalidPageTokenError
from api_common.listing.filtering import Order, OrderTerm
from api_common.listing.pagination import CursorValue, PageTokens, binding, clamp_page_size, keyset_clause
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, ColumnElement, DateTime, MetaData, Table, Text, Uuid, delete, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

Run = Callable[..., list[asyncpg.Record]]

KEY = Fernet.generate_key().decode()
TOKENS = PageTokens([KEY])
BOUND = binding("acme", "ListUsers", "", "create_time desc, id desc", False)

ROWS = Table(
    "paged_rows",
    MetaData(),
    Column("id", Uuid(as_uuid=False), primary_key=True),
    Column("name", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("create_time", DateTime(timezone=True), nullable=False),
)
# Shrinking a counter-example through the database would take minutes.
THROUGH_SQL = settings(
    max_examples=50,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)

CURSORS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.integers(-(2**63), 2**63 - 1),
    max_size=4,
)


class TestPageSize:
    @pytest.mark.parametrize(("requested", "size"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
    def test_is_clamped(self, requested: int, size: int) -> None:
        assert clamp_page_size(requested) == size

    def test_must_not_be_negative(self) -> None:
        with pytest.raises(ValidationError) as caught:
            clamp_page_size(-1)
        assert [violation.field for violation in caught.value.violations] == ["page_size"]


class TestBinding:
    def test_every_part_counts(self) -> None:
        calls = [
            binding("acme", "ListUsers", "", "", False),
            binding("acme", "ListUsers", "", "", True),
            binding("acme", "ListUsers", "state = ACTIVE", "", False),
            binding("acme", "ListUsers", "", "state = ACTIVE", False),
            binding("acme", "ListAgents", "", "", False),
            binding("beta", "ListUsers", "", "", False),
        ]
        assert len(set(calls)) == len(calls)

    @settings(deadline=None)
    @given(st.lists(st.text(alphabet='a",\\[] ', max_size=4)), st.lists(st.text(alphabet='a",\\[] ', max_size=4)))
    def test_no_two_calls_share_one(self, one: list[str], other: list[str]) -> None:
        assert (binding("t", "m", *one) == binding("t", "m", *other)) is (one == other)


class TestToken:
    @settings(deadline=None)
    @given(CURSORS)
    def test_gives_back_exactly_what_was_sealed(self, cursor: list[CursorValue]) -> None:
        opened = TOKENS.open(TOKENS.seal(cursor, binding=BOUND), binding=BOUND)
        assert opened == cursor
        assert [type(value) for value in opened] == [type(value) for value in cursor]

    def test_opens_as_it_was_sealed_before_rows_had_times_as_numbers(self) -> None:
        content = json.dumps([BOUND, {"us": 1_700_000_000_000_001}, "a"])
        token = Fernet(KEY).encrypt(content.encode()).rstrip(b"=").decode()
        assert TOKENS.open(token, binding=BOUND) == [1_700_000_000_000_001, "a"]

    @settings(deadline=None)
    @given(CURSORS)
    def test_is_safe_in_a_url(self, cursor: list[CursorValue]) -> None:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", TOKENS.seal(cursor, binding=BOUND))

    def test_fits_the_contract_with_the_longest_values(self) -> None:
        token = TOKENS.seal(["\U0001f600" * 200, "a" * 254, 2**56, str(UUID(int=1))], binding=BOUND)
        assert len(token) <= 4096

    def test_shows_nothing_of_what_it_holds(self) -> None:
        token = TOKENS.seal(["ada@example.org"], binding=BOUND)
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        assert b"ada" not in raw
        assert BOUND.encode() not in raw

    def test_refuses_a_value_it_could_not_give_back(self) -> None:
        with pytest.raises(TypeError, match="UUID"):
            TOKENS.seal([UUID(int=1)], binding=BOUND)  # type: ignore[list-item]

    def test_opens_for_its_own_call_only(self) -> None:
        token = TOKENS.seal(["a"], binding=BOUND)
        self.assert_refused(TOKENS, token, binding("beta", "ListUsers", "", "create_time desc, id desc", False))
        self.assert_refused(TOKENS, token, "")

    def test_opens_after_the_keys_are_rotated(self) -> None:
        old, new = (Fernet.generate_key().decode() for _ in range(2))
        token = PageTokens([old]).seal(["a"], binding=BOUND)
        assert PageTokens([new, old]).open(token, binding=BOUND) == ["a"]
        self.assert_refused(PageTokens([new]), token, BOUND)
        fresh = PageTokens([new, old]).seal(["a"], binding=BOUND)
        assert PageTokens([new]).open(fresh, binding=BOUND) == ["a"]

    @pytest.mark.parametrize("keys", [[], [""], ["short"], ["="]])
    def test_needs_good_keys(self, keys: list[str]) -> None:
        with pytest.raises(ValueError, match=r"."):
            PageTokens(keys)

    @settings(deadline=None)
    @given(CURSORS, st.data())
    def test_refuses_every_changed_character(self, cursor: list[CursorValue], data: st.DataObject) -> None:
        token = TOKENS.seal(cursor, binding=BOUND)
        index = data.draw(st.integers(0, len(token) - 1))
        other = data.draw(st.characters(exclude_categories=["Cs"]).filter(lambda character: character != token[index]))
        self.assert_refused(TOKENS, token[:index] + other + token[index + 1 :], BOUND)

    @settings(deadline=None)
    @given(st.data())
    def test_refuses_every_added_or_missing_character(self, data: st.DataObject) -> None:
        token = TOKENS.seal(["a", 1], binding=BOUND)
        index = data.draw(st.integers(0, len(token)))
        added = data.draw(st.characters(exclude_categories=["Cs"]))
        self.assert_refused(TOKENS, token[:index] + added + token[index:], BOUND)
        self.assert_refused(TOKENS, token[: max(index - 1, 0)] + token[index:] if index else token[1:], BOUND)

    def test_has_one_spelling(self) -> None:
        token = TOKENS.seal(["ab"], binding=BOUND)
        for character in "=!.*~ \n\t\x00":
            self.assert_refused(TOKENS, token + character, BOUND)
            self.assert_refused(TOKENS, token[:5] + character + token[5:], BOUND)
        standard = TOKENS.seal(["a"] * 200, binding=BOUND)
        self.assert_refused(TOKENS, standard.replace("-", "+").replace("_", "/"), BOUND)
        assert len(token) % 4, "the last character has bits to spare"
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        for character in set(alphabet) - {token[-1]}:
            self.assert_refused(TOKENS, token[:-1] + character, BOUND)

    @settings(deadline=None)
    @given(st.text() | st.binary().map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
    def test_refuses_garbage(self, text: str) -> None:
        self.assert_refused(TOKENS, text, BOUND)

    @pytest.mark.parametrize("token", ["", "=", "\ud800", "\x00", "a" * 100_000])
    def test_refuses_odd_garbage(self, token: str) -> None:
        self.assert_refused(TOKENS, token, BOUND)

    def test_the_error_does_not_tell_what_was_wrong(self) -> None:
        token = TOKENS.seal(["a"], binding=BOUND)
        errors = [self.assert_refused(TOKENS, text, BOUND) for text in ("", "garbage", token[:-2])]
        errors.append(self.assert_refused(TOKENS, token, "another call"))
        errors.append(self.assert_refused(PageTokens([Fernet.generate_key().decode()]), token, BOUND))
        assert len({(error.message, error.violations) for error in errors}) == 1

    def assert_refused(self, tokens: PageTokens, token: str, bound: str) -> InvalidPageTokenError:
        with pytest.raises(InvalidPageTokenError) as caught:
            tokens.open(token, binding=bound)
        assert [violation.field for violation in caught.value.violations] == ["page_token"]
        return caught.value


COLUMNS = st.permutations(["name", "size", "create_time"]).flatmap(
    lambda names: st.integers(0, 3).map(lambda count: [*names[:count], "id"])
)
ORDERS = COLUMNS.flatmap(
    lambda names: st.lists(st.booleans(), min_size=len(names), max_size=len(names)).map(
        lambda directions: Order(
            tuple(OrderTerm(name, ROWS.c[name], down) for name, down in zip(names, directions, strict=True))
        )
    )
)
# Few values, so that ties are common.
VALUES = st.tuples(
    st.sampled_from(["", "a", "A", "b", "日", "a b"]),
    st.sampled_from([-(2**63), -1, 0, 1]),
    st.sampled_from([EPOCH, EPOCH + timedelta(microseconds=1), EPOCH + timedelta(days=1)]),
)


@pytest.fixture(scope="module")
def run(scratch_database: Run) -> Iterator[Run]:
    scratch_database(str(CreateTable(ROWS).compile(dialect=postgresql.dialect())))  # type: ignore[no-untyped-call]
    yield scratch_database
    scratch_database("DROP TABLE paged_rows")


def by(terms: Sequence[OrderTerm]) -> list[ColumnElement[Any]]:
    """Returns an order for ORDER BY."""
    return [term.column.desc() if term.descending else term.column.asc() for term in terms]


class Walk:
    """A client that pages through the rows while others insert and delete."""

    def __init__(self, run: Run, order: Order, page_size: int) -> None:
        self.run, self.order, self.page_size = run, order, page_size
        self.token = ""
        self.seen: list[str] = []
        self.done = False

    def turn_page(self) -> None:
        statement = select(ROWS).order_by(*by(self.order.terms)).limit(self.page_size)
        values: dict[str, CursorValue] = {}
        if self.token:
            cursor = TOKENS.open(self.token, binding=BOUND)
            values = {f"cursor_{index}": value for index, value in enumerate(cursor)}
            statement = statement.where(keyset_clause(self.order.terms))
        page = self.run(statement, values)
        self.seen += [row["id"] for row in page]
        assert len(self.seen) < 100, "the walk goes in circles"
        self.done = not page
        if page:
            self.token = TOKENS.seal([page[-1][term.name] for term in self.order.terms], binding=BOUND)


Values = tuple[str, int, datetime]
Change = Values | int
"""A row to insert, or the number of a row to delete."""


def insert_row(run: Run, number: int, values: Values) -> str:
    id = str(UUID(int=number * 7919 % 10_007))  # neither in the order of insertion nor at random
    name, size, create_time = values
    run(insert(ROWS).values(id=id, name=name, size=size, create_time=create_time))
    return id


class TestKeyset:
    @THROUGH_SQL
    @given(
        rows=st.lists(VALUES, max_size=12),
        changes=st.lists(st.lists(VALUES | st.integers(0, 11), max_size=3), max_size=6),
        order=ORDERS,
        page_size=st.integers(1, 5),
    )
    def test_a_walk_meets_each_row_once_while_others_come_and_go(
        self, run: Run, rows: list[Values], changes: list[list[Change]], order: Order, page_size: int
    ) -> None:
        run("DELETE FROM paged_rows")
        ids = [insert_row(run, number, values) for number, values in enumerate(rows)]
        lasting = set(ids)
        walk = Walk(run, order, page_size)
        for number, batch in enumerate(changes):
            walk.turn_page()
            for index, change in enumerate(batch):
                if isinstance(change, tuple):
                    insert_row(run, 100 + 10 * number + index, change)
                elif change < len(ids):
                    run(delete(ROWS).where(ROWS.c.id == ids[change]))
                    lasting.discard(ids[change])
        while not walk.done:
            walk.turn_page()
        assert len(walk.seen) == len(set(walk.seen))
        assert lasting <= set(walk.seen)

    @THROUGH_SQL
    @given(rows=st.lists(VALUES, max_size=12), order=ORDERS, page_size=st.integers(1, 5))
    def test_the_pages_are_the_ordered_list_cut_up(
        self, run: Run, rows: list[Values], order: Order, page_size: int
    ) -> None:
        run("DELETE FROM paged_rows")
        for number, values in enumerate(rows):
            insert_row(run, number, values)
        walk = Walk(run, order, page_size)
        while not walk.done:
            walk.turn_page()
        everything = run(select(ROWS.c.id).order_by(*by(order.terms)))
        assert walk.seen == [row["id"] for row in everything]

    def test_one_direction_is_one_comparison_of_rows(self) -> None:
        clause = keyset_clause([OrderTerm("size", ROWS.c.size, True), OrderTerm("id", ROWS.c.id, True)])
        assert str(clause) == "(paged_rows.size, paged_rows.id) < (:cursor_0, :cursor_1)"

    def test_mixed_directions_start_from_the_first_column(self) -> None:
        clause = keyset_clause([OrderTerm("size", ROWS.c.size, False), OrderTerm("id", ROWS.c.id, True)])
        assert str(clause).startswith("paged_rows.size >= :cursor_0 AND (")

    def test_the_index_is_entered_where_the_page_begins(self, run: Run) -> None:
        run("DELETE FROM paged_rows")
        run("INSERT INTO paged_rows SELECT gen_random_uuid(), 'n', g, now() FROM generate_series(1, 20000) g")
        run("CREATE INDEX paged_rows_size ON paged_rows (size, id)")
        run("ANALYZE paged_rows")
        for directions in ([False, False], [True, True], [False, True], [True, False]):
            terms = [OrderTerm(n, ROWS.c[n], d) for n, d in zip(("size", "id"), directions, strict=True)]
            page = select(ROWS.c.id).where(keyset_clause(terms)).order_by(*by(terms)).limit(50)
            lines = run(page.limit(50), {"cursor_0": 10_000, "cursor_1": str(UUID(int=0))}, prefix="EXPLAIN ")
            plan = "\n".join(line[0] for line in lines)
            assert re.search(r"paged_rows_size .*\n +Index Cond: ", plan), plan
