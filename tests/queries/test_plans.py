"""Reads cost what they answer, not what is stored: the plans of the very statements that the services send say so."""

from collections.abc import Mapping
from typing import Final, cast

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import Principal
from api_common.db import Database, Statement, Transaction
from api_common.errors import PayloadTooLargeError
from api_common.listing import (
    EnumField,
    Field,
    IdField,
    IntegerField,
    LabelsField,
    TextField,
    TextListField,
    TimestampField,
    pages,
)
from api_common.resources import batch_statements
from api_common.settings import DatabaseSettings
from api_common.testing import TestDatabase
from buf.validate import validate_pb2
from pydantic import SecretStr
from users_service.repository import UserRepository
from users_service.tables import users

from tests import protos
from tests.queries.lists import ALIKE, GETS, LISTS, ROWS, TENANT, TENANTS, TOKENS, Explain, List, Request, row_id

PAGE: Final = 51
"""Rows that a page of 50 reads: one more tells whether there is another page."""
SEQUENTIAL: Final = {"Seq Scan", "Parallel Seq Scan"}
SORTS: Final = {"Sort", "Incremental Sort"}

OF_ITS_OWN: Final = ("id", "display_name", "email", "model")
"""Fields that have another value in every row; the texts among them sortable."""

ORDERS: Final = [
    pytest.param(one, f"{name}{direction}", id=f"{one}-{name}{direction or ' asc'}")
    for one in LISTS
    for name in (one.fields.sortable if one.fields else [""])
    for direction in (["", " desc"] if name else [""])
]
FILTERS: Final = [
    pytest.param(one, name, field, id=f"{one}-{name}")
    for one in LISTS
    if one.fields
    for name, field in one.fields.by_name.items()
]


def test_no_list_is_forgotten() -> None:
    declared = {method.name for method in protos.methods() if method.name.startswith("List")}
    assert declared == {one.method for one in LISTS}, "add it to LISTS in tests/queries/lists.py"


class TestGet:
    @pytest.mark.parametrize("resource", GETS)
    async def test_reads_one_row_by_its_key(self, explain: Explain, resource: str) -> None:
        service, table, get = GETS[resource]
        async with explain(service) as transaction:
            assert await get(transaction)
        (plan,) = transaction.plans
        assert plan.kinds & {"Index Scan", "Index Only Scan"}, plan
        assert plan.read(table) == 1, plan

    @pytest.mark.parametrize(("subject", "email"), [(row_id(13), ""), ("ada", "TEXT 13"), (row_id(13), "text 14")])
    async def test_finds_the_caller_by_its_keys(self, explain: Explain, subject: str, email: str) -> None:
        caller = Principal(subject, TENANT, frozenset(), email, expires_at=0)
        async with explain("users") as transaction:
            assert await UserRepository(TOKENS).find_principal(cast(Transaction, transaction), caller)
        (plan,) = transaction.plans
        assert not plan.kinds & SEQUENTIAL, plan
        assert plan.read(users) <= 2, plan


class TestPages:
    @pytest.mark.parametrize(("one", "order"), ORDERS)
    async def test_read_their_rows_from_the_index_in_order(self, explain: Explain, one: List, order: str) -> None:
        async with explain(one.service) as transaction:
            first = await one.page(transaction, Request(order_by=order))
            far = await one.page(transaction, Request(page_size=1000, order_by=order))
            deep = await one.page(transaction, Request(page_token=far.next_page_token, order_by=order))
        assert len(first.rows) == len(deep.rows) == 50
        for plan in (transaction.plans[0], transaction.plans[2]):
            assert not plan.kinds & (SEQUENTIAL | SORTS), plan
            assert plan.read(one.table) == PAGE, plan

    @pytest.mark.parametrize("size", [5, 50, 1000])
    @pytest.mark.parametrize("one", LISTS, ids=str)
    async def test_are_planned_once_for_all_values(self, explain: Explain, one: List, size: int) -> None:
        """Or planning costs as much as reading, in a large table, where Postgres fears the worst of an unknown size."""
        async with explain(one.service) as transaction:
            first = await one.page(transaction, Request(page_size=1000))
        for token in ("", first.next_page_token):
            async with explain(one.service) as transaction:
                for _ in range(8):
                    await one.page(transaction, Request(page_size=size, page_token=token))
                planned, plan = await transaction.kept_plan()
            # Postgres plans five times before it compares.
            assert planned <= 5, plan
            assert not plan.kinds & (SEQUENTIAL | SORTS), plan
            assert plan.read(one.table) == min(size + 1, ROWS // TENANTS - 1000 * bool(token)), plan

    async def test_end_without_measuring_what_does_not_fit(
        self, explain: Explain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pages, "MAX_PAGE_BYTES", 3_000)
        async with explain(LISTS[0].service) as transaction:
            # No other test asks for this order: what is compiled with the limit is kept.
            page = await LISTS[0].page(transaction, Request(order_by="display_name desc, update_time"))
        (plan,) = transaction.plans
        (stops,) = [node for node in plan.nodes if "Run Condition" in node]
        (measured,) = stops["Plans"][0]["Plans"]
        assert 1 < len(page.rows) < 20, plan
        assert page.next_page_token
        # The first that does not fit, and one that is read before that is known.
        assert measured["Actual Rows"] <= len(page.rows) + 2, plan

    async def test_of_two_orders_sort_only_what_the_first_leaves_equal(self, explain: Explain) -> None:
        one = LISTS[0]
        async with explain(one.service) as transaction:
            await one.page(transaction, Request(order_by="display_name, create_time desc"))
        (plan,) = transaction.plans
        assert "Incremental Sort" in plan.kinds
        assert plan.read(one.table) <= PAGE + 1, plan


class TestBatchGet:
    async def test_ends_without_measuring_what_does_not_fit(
        self, explain: Explain, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(batch_statements, "MAX_ROWS_BYTES", 3_000)
        ids = [row_id(13 + number * TENANTS) for number in range(PAGE)]
        async with explain("users") as transaction:
            repository, asked = UserRepository(TOKENS), cast(Transaction, transaction)
            assert [row["id"] for row in await repository.get_many(asked, ids[4::-1])] == ids[4::-1]
            with pytest.raises(PayloadTooLargeError):
                await repository.get_many(asked, ids)
        plan = transaction.plans[1]
        (stops,) = [node for node in plan.nodes if "Run Condition" in node]
        (measured,) = stops["Plans"][0]["Plans"]
        assert 5 <= stops["Actual Rows"] < 20, plan
        assert measured["Actual Rows"] <= stops["Actual Rows"] + 2, plan
        # They are not sent either.
        assert plan.root["Actual Rows"] == 0, plan


class TestFilters:
    @pytest.mark.parametrize("show_deleted", [False, True], ids=["live", "all"])
    @pytest.mark.parametrize(("one", "name", "field"), FILTERS)
    async def test_read_what_they_find(
        self, explain: Explain, one: List, name: str, field: Field, show_deleted: bool
    ) -> None:
        async with explain(one.service) as transaction:
            request = Request(filter=filter_for(name, field), show_deleted=show_deleted)
            found = len((await one.page(transaction, request)).rows)
        plan = transaction.plans[-1]
        assert found == (1 if name in OF_ITS_OWN else ALIKE)
        assert not plan.kinds & SEQUENTIAL, plan
        if isinstance(field, LabelsField):
            # GIN knows no tenants (ADR 20): whether others' rows are sifted out before or after they are read is a
            # matter of a few units of cost.
            assert found <= plan.read(one.table) <= found * TENANTS, plan
        else:
            assert plan.read(one.table) == found, plan

    @pytest.mark.parametrize(("one", "name", "field"), [case for case in FILTERS if case.values[1] in OF_ITS_OWN[1:]])
    async def test_a_wildcard_at_the_end_reads_what_it_finds(
        self, explain: Explain, one: List, name: str, field: TextField
    ) -> None:
        async with explain(one.service) as transaction:
            found = len((await one.page(transaction, Request(filter=f'{name} = "Text 199*"'))).rows)
        plan = transaction.plans[-1]
        assert found == 11
        assert plan.read(one.table) == found, plan

    @pytest.mark.parametrize("one", LISTS[:2], ids=str)
    async def test_by_a_role_read_who_has_it(self, explain: Explain, one: List) -> None:
        """Also a role that nobody has, which Postgres takes for common, and so would look for in order."""
        declared: validate_pb2.FieldRules = protos.option(
            pb.User.DESCRIPTOR.fields_by_name["roles"], validate_pb2.field
        )
        found = {}
        for role in getattr(declared.repeated.items.string, "in"):
            async with explain(one.service) as transaction:
                request = Request(filter=f"roles:{role}", page_size=5)
                found[role] = len((await one.page(transaction, request)).rows)
            assert transaction.plans[-1].read(one.table) == (6 if found[role] else 0), role
        assert found == {"viewer": 5, "editor": 5, "operator": 0, "admin": 5}

    async def test_are_planned_for_their_values_every_time(self, explain: Explain) -> None:
        """After five runs Postgres weighs one plan for all values, and what suits a rare one is wrong for others."""
        one = LISTS[0]
        async with explain(one.service) as transaction:
            for _ in range(8):
                await one.page(transaction, Request(filter=f"id = {row_id(13)}", order_by="email"))
            runs = (
                "SELECT custom_plans, generic_plans FROM pg_prepared_statements"
                " WHERE statement LIKE 'SELECT fits%users.id = %email_folded ASC%'"
            )
            (row,) = await transaction.inner.fetch_all(Statement(runs, (), {}), {})
        assert tuple(row.values()) == (8, 0)

    @pytest.mark.parametrize("text", ['display_name:"ext 199"', 'display_name = "*199"', "labels:team", "-labels:x"])
    async def test_others_stay_within_the_tenant(self, explain: Explain, text: str) -> None:
        one = LISTS[0]
        async with explain(one.service) as transaction:
            await one.page(transaction, Request(filter=text))
        plan = transaction.plans[-1]
        assert not plan.kinds & SEQUENTIAL, plan
        assert plan.read(one.table) <= ROWS // TENANTS, plan


class TestSession:
    async def test_a_request_occupies_one_core(self, databases: Mapping[str, TestDatabase]) -> None:
        """Reading a large tenant may take as long as the deadline; on every core it would starve the others."""
        settings = DatabaseSettings(url=SecretStr(databases["users"].url), pool_size=1)
        database = await Database.connect(settings, application_name="plans")
        assert await database.fetch_value("SHOW max_parallel_workers_per_gather") == "0"
        assert await database.fetch_value("SHOW jit") == "off"
        await database.close()


def filter_for(name: str, field: Field) -> str:
    """Returns a filter by one field that few rows of `lists.fill_statement` pass."""
    if isinstance(field, EnumField):
        return f"{name} = {list(field.states)[-1].name}"
    by_kind: dict[type[Field], str] = {
        IdField: f"{name} = {row_id(13 if name == 'id' else 7)}",
        IntegerField: f"{name} = 7",
        LabelsField: f'{name}.team = "t7"',
        TextField: f'{name} = "{"Text" if name in OF_ITS_OWN else "text"} 7"',
        TextListField: f"{name}:admin",
        TimestampField: f"{name} < 2026-01-01T00:00:{ALIKE}Z",
    }
    return by_kind[type(field)]
