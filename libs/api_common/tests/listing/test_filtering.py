"""Filters and orders: what they mean, what they refuse, and which indexes serve them."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import asyncpg
import pytest
from api_common.listing.filterable_fields import Fields, IdField, TextField
from api_common.listing.filtering import (
    MAX_FILTER_BYTES,
    MAX_FILTER_DEPTH,
    MAX_FILTER_TERMS,
    InvalidFilterError,
    InvalidOrderByError,
    parse_filter,
    parse_order_by,
)
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Text, bindparam, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from libs.api_common.tests.things import (
    EPOCH,
    FIELDS,
    FILTERS,
    IDS,
    THING,
    THINGS,
    State,
    Thing,
    Written,
    quoted,
)

Run = Callable[..., list[asyncpg.Record]]


LOSSES = ["email", "display_name", "state", "revision", "workflow_id", "create_time", "labels", "roles", "tags"]
# Letters whose lower case is longer, depends on its place or on the language, or is none.
LETTERS = st.text(alphabet="aAİIıißẞΣσςǅÅK\N{COMBINING DOT ABOVE}%_*\\", max_size=5)


# Shrinking a counter-example through the database would take minutes.
THROUGH_SQL = settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def run(scratch_database: Run) -> Iterator[Run]:
    scratch_database(str(CreateTable(THINGS).compile(dialect=postgresql.dialect())))  # type: ignore[no-untyped-call]
    for column in LOSSES:
        scratch_database(f"ALTER TABLE things ALTER {column} DROP NOT NULL")
    scratch_database("ALTER TABLE things ALTER email_folded DROP NOT NULL")
    yield scratch_database
    scratch_database("DROP TABLE things")


def store(run: Run, things: list[Thing]) -> None:
    run("DELETE FROM things")
    columns = ("tenant_id", "id", "email", "display_name", "state", "revision", "workflow_id", "create_time", "labels")
    insert = THINGS.insert().values({name: bindparam(f"new_{name}") for name in (*columns, "roles", "tags")})
    for number, thing in enumerate(things):
        row = {f"new_{name}": value for name, value in vars(thing).items()}
        run(insert, {**row, "new_tenant_id": str(number), "new_tags": thing.roles})


def matching(run: Run, text: str) -> list[int]:
    where = parse_filter(text, FIELDS)
    statement = select(THINGS.c.tenant_id)
    if where.clause is not None:
        statement = statement.where(where.clause)
    return sorted(int(row["tenant_id"]) for row in run(statement, where.values))


def assert_agreement(run: Run, filters: list[str]) -> None:
    """Compares the rows that match in Postgres with those that match in this process."""
    operands = FIELDS.operands
    rows = run(select(THINGS.c.tenant_id, *(operand.label(f"{name}!") for name, operand in operands.items())))
    for text in filters:
        where = parse_filter(text, FIELDS)
        values = {name: where.values[name] for name in where.folding}
        folded = {
            name: run(select(func.lower(bindparam("v", type_=Text))), {"v": values[name]})[0][0] for name in values
        }
        matches = where.matcher(folded)
        found = [int(row["tenant_id"]) for row in rows if matches({name: row[f"{name}!"] for name in operands})]
        assert sorted(found) == matching(run, text), text


def complaint(text: str) -> str:
    with pytest.raises(InvalidFilterError) as caught:
        parse_filter(text, FIELDS)
    (violation,) = caught.value.violations
    assert violation.field == "filter"
    return violation.description


class TestMeaning:
    @THROUGH_SQL
    @given(things=st.lists(THING, min_size=1, max_size=5), filters=st.lists(FILTERS, min_size=4, max_size=4))
    def test_sql_finds_what_python_finds(self, run: Run, things: list[Thing], filters: list[Written]) -> None:
        store(run, things)
        for _, written, meaning in filters:
            expected = [number for number, thing in enumerate(things) if meaning(thing)]
            assert matching(run, written) == expected, written

    @THROUGH_SQL
    @given(
        things=st.lists(THING, min_size=1, max_size=5),
        filters=st.lists(FILTERS, min_size=4, max_size=4),
        lost=st.sets(st.sampled_from(LOSSES)),
    )
    def test_a_watch_matches_what_sql_finds(
        self, run: Run, things: list[Thing], filters: list[Written], lost: set[str]
    ) -> None:
        """Also where a row was recorded before a column came, and has NULL where there may be none (ADR 25)."""
        store(run, things)
        for column in lost:
            run(f"UPDATE things SET {column} = NULL")
        assert_agreement(run, [written for _, written, _ in filters])

    @THROUGH_SQL
    @given(texts=st.lists(LETTERS, min_size=1, max_size=5), value=LETTERS)
    def test_a_watch_folds_letters_as_the_database_does(self, run: Run, texts: list[str], value: str) -> None:
        store(run, [Thing(IDS[0], text, text, State.ACTIVE, 1, None, EPOCH, {}, []) for text in texts])
        fields = ("email = {}", "email:{}", "display_name = {}", "display_name:{}")
        assert_agreement(run, [field.format(quoted(value)) for field in fields])

    def test_a_star_alone_asks_whether_there_is_any_text(self, run: Run) -> None:
        texts = ("", "a", "*")
        store(run, [Thing(IDS[0], "", text, State.ACTIVE, 1, None, EPOCH, {}, []) for text in texts])
        assert matching(run, "display_name:*") == [1, 2]
        assert matching(run, 'display_name:"\\*"') == [2]
        assert matching(run, "display_name = *") == [0, 1, 2]

    def test_or_binds_tighter_than_and(self) -> None:
        first = parse_filter("revision = 1 OR revision = 2 AND revision = 3", FIELDS)
        second = parse_filter("(revision = 1 OR revision = 2) AND revision = 3", FIELDS)
        assert first.shape == second.shape
        assert first.shape != parse_filter("revision = 1 OR (revision = 2 AND revision = 3)", FIELDS).shape

    def test_a_negation_holds_for_one_comparison_only(self) -> None:
        plain = parse_filter("NOT revision = 1 AND state = ACTIVE", FIELDS)
        assert plain.shape == parse_filter("(-revision = 1) AND state = ACTIVE", FIELDS).shape

    @pytest.mark.parametrize("text", ["", "   ", "\n"])
    def test_an_empty_filter_has_no_clause(self, text: str) -> None:
        empty = parse_filter(text, FIELDS)
        assert (empty.clause, empty.shape, dict(empty.values)) == (None, (), {})

    def test_times_are_compared_by_instant(self) -> None:
        one = parse_filter('create_time > "2030-01-01T02:00:00.5+02:00"', FIELDS)
        other = parse_filter("create_time > 2030-01-01t00:00:00.500z", FIELDS)
        assert one.values == other.values == {"f0": datetime(2030, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)}

    def test_fields_go_by_the_names_of_json_too(self) -> None:
        assert parse_filter('displayName = "a"', FIELDS).shape == parse_filter('display_name = "a"', FIELDS).shape
        assert parse_filter("labels.teamName:*", FIELDS).values == {"f0": "teamName"}
        assert parse_order_by("displayName desc", FIELDS).shape == "display_name desc, id desc"
        for text in ("DisplayName = 1", "display_Name = 1", "State = ACTIVE"):
            assert text.split()[0] in complaint(text)
        with pytest.raises(InvalidOrderByError):
            parse_order_by("create_time, createTime", FIELDS)

    def test_words_that_begin_like_operators_are_names(self) -> None:
        assert "`NOTE`" in complaint("NOTE = 1")
        assert "`ORder`" in complaint("revision = 1 AND ORder = 2")


class TestShape:
    def test_values_do_not_change_it(self) -> None:
        one = parse_filter('email = "a" AND (labels.team = "x" OR create_time > 2030-01-01T00:00:00Z)', FIELDS)
        other = parse_filter('email = "b" AND (labels.city = "y" OR create_time > 2031-01-01T00:00:00Z)', FIELDS)
        assert hash(one.shape) == hash(other.shape)
        assert one.shape == other.shape
        assert str(one.clause) == str(other.clause)
        assert one.values != other.values

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ('email = "a"', 'email = "a*"'),
            ('email = "a*"', 'email = "*a"'),
            ('email = "a"', 'email != "a"'),
            ("revision < 1", "revision <= 1"),
            ("labels.team:*", 'labels.team = "a"'),
            ("revision = 1 OR state = ACTIVE", "revision = 1 AND state = ACTIVE"),
            ("NOT (revision = 1 AND state = ACTIVE)", "NOT revision = 1 AND state = ACTIVE"),
        ],
    )
    def test_other_sql_has_another_shape(self, one: str, other: str) -> None:
        assert parse_filter(one, FIELDS).shape != parse_filter(other, FIELDS).shape

    def test_values_are_parameters_only(self) -> None:
        clause = parse_filter('email = "secret" AND labels.hidden = "x" AND roles:concealed', FIELDS).clause
        assert not re.search("secret|hidden|concealed", str(clause))


PIECES = [
    "email",
    "labels.a",
    "state",
    "roles",
    "revision",
    "create_time",
    "=",
    "!=",
    ":",
    "<",
    ">=",
    "(",
    ")",
    "-",
    "*",
]
PIECES += [" ", "AND", "OR", "NOT", "ACTIVE", "1", '"a"', "'", '"', "\\", "2030-01-01T00:00:00Z", "日", "\n", ".", ","]


class TestRefusal:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("nickname = 1", "names `nickname` at column 1; the fields are id, email,"),
            ("state = ACTIVE AND nickname = 1", "`nickname` at column 20"),
            ("roles = admin", "`roles` at column 1 by = and not by one of :"),
            ("email > a", "`email` at column 1 by > and not by one of != : ="),
            ("state = GONE", "`state` at column 1 is one of ACTIVE, SUSPENDED"),
            ("state = STATE_UNSPECIFIED", "is one of ACTIVE, SUSPENDED"),
            ("state = active", "is one of ACTIVE, SUSPENDED"),
            ("id = 5", "`id` at column 1 is a UUID"),
            ("id = {00000000-0000-0000-0000-000000000000}", "is a UUID"),
            ("revision = one", "is a whole number"),
            ("revision = 1.5", "is a whole number"),
            ("revision = \N{ARABIC-INDIC DIGIT ONE}", "is a whole number"),
            (f"revision = {2**63}", "is a whole number of at most 64 bits"),
            (f"revision = {'9' * 1000}", "is a whole number of at most 64 bits"),
            ("create_time > 2030-01-01", "is a timestamp such as"),
            ("create_time > 2030-02-30T00:00:00Z", "is a timestamp such as"),
            ("create_time > 2030-01-01T00:00:00", "is a timestamp such as"),
            ("create_time > 0001-01-01T00:00:00+01:00", "is a timestamp such as"),
            ("create_time < 9999-12-31T23:59:59-01:00", "is a timestamp such as"),
            ('labels = "a"', "needs the name of a label"),
            ('labels.team = "a*"', "does not know wildcards"),
            ("labels:*", "does not know wildcards"),
            ("email.domain = a", "`email` at column 1 has no parts"),
            ("email", "needs one of = != < <= > >= : at column 6"),
            ("email =", "needs a value"),
            ("email == a", "at column 8"),
            ("email = a email = b", "needs AND, OR, ) or the end at column 11"),
            ("email = a AND", "needs a field's name at column 14"),
            ("(email = a", "needs AND, OR, ) or the end at column 11"),
            ("email = a)", "at column 10"),
            ('email = "a', "needs a value"),
            ("ada@example.org", "at column 4"),
            ('"ada"', "needs a field's name at column 1"),
            ("email = a ANDstate = ACTIVE", "at column 11"),
            ("email = NOT a", "at column 13"),
            ("email = a\x00b", "NUL character, as at column 10"),
            ('email = "a\\\x00b"', "NUL character"),
        ],
    )
    def test_says_what_and_where(self, text: str, says: str) -> None:
        assert says in complaint(text)

    def test_a_long_name_is_not_echoed_in_full(self) -> None:
        assert len(complaint(f"{'x' * 2000} = 1")) < 300

    def test_the_bounds_are_exact(self) -> None:
        deep = "(" * MAX_FILTER_DEPTH + "revision = 1" + ")" * MAX_FILTER_DEPTH
        many = " AND ".join(["revision = 1"] * MAX_FILTER_TERMS)
        long = 'email = "' + "a" * (MAX_FILTER_BYTES - 10) + '"'
        for text in (deep, many, long):
            assert parse_filter(text, FIELDS).clause is not None
        assert "deeper than 8" in complaint(f"({deep})")
        assert "more than 20 comparisons" in complaint(f"{many} OR revision = 1")
        assert "longer than 2048 bytes" in complaint(f"{long} ")
        assert "longer than 2048 bytes" in complaint(f'email = "{"日" * 700}"')

    @pytest.mark.parametrize(
        "text",
        [
            " AND ".join(["a=1"] * 1000),
            "(" * 2048,
            "-" * 2048,
            "NOT " * 512,
            "(-" * 1024,
            "x" * 100_000,
            "email = " + "\\" * 2000,
            "email = '" + "\\'" * 1000,
            "email = " + "*a" * 1000,
            " " * 2000 + "email = (((",
            "a." + "-" * 2040,
            "1" * 2048,
        ],
    )
    def test_hostile_texts_are_answered_at_once(self, text: str) -> None:
        started = time.process_time()
        with contextlib.suppress(InvalidFilterError):
            parse_filter(text, FIELDS)
        assert time.process_time() - started < 0.5

    @settings(max_examples=500, deadline=None)
    @given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
    def test_no_text_raises_anything_else(self, text: str) -> None:
        try:
            where = parse_filter(text, FIELDS)
        except InvalidFilterError:
            return
        assert (where.clause is None) is (not text.strip())

    def test_a_pattern_full_of_wildcards_is_cheap_in_the_database(self, run: Run) -> None:
        store(run, [Thing(IDS[0], "", "a" * 10_000, State.ACTIVE, 1, None, EPOCH, {}, [])])
        run("SET statement_timeout = '1s'")
        try:
            assert matching(run, f'display_name = "{"*a" * 1000}b"') == []
            assert matching(run, f'display_name:"{"*a" * 1000}"') == [0]
        finally:
            run("RESET statement_timeout")


class TestDeclaration:
    def test_needs_an_id(self) -> None:
        with pytest.raises(ValueError, match="`id`"):
            Fields({"email": TextField(THINGS.c.email)})

    def test_refuses_to_sort_by_a_column_that_may_be_null(self) -> None:
        with pytest.raises(ValueError, match="`workflow_id` must be NOT NULL"):
            Fields({"id": IdField(THINGS.c.id), "workflow_id": IdField(THINGS.c.workflow_id, sortable=True)})
