"""Every list of the mesh, and rows to read plans from."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson
from agents_service.repository import FIELDS as AGENT_FIELDS
from agents_service.repository import AgentRepository
from agents_service.tables import agents
from api_common.db import Row, Statement, Transaction, compile_statement, to_datetime
from api_common.listing import EnumField, Fields, Page, PageTokens
from cryptography.fernet import Fernet
from google.protobuf.descriptor import MethodDescriptor
from ipas_service.repository import FIELDS as IPA_FIELDS
from ipas_service.repository import DeploymentRepository, IpaRepository
from ipas_service.tables import deployments, ipas
from sqlalchemy import BigInteger, Column, DateTime, Integer, LargeBinary, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import JSONB
from users_service.repository import ACCOUNT_FIELDS, ApiKeyRepository, ServiceAccountRepository, UserRepository
from users_service.repository import FIELDS as USER_FIELDS
from users_service.tables import api_keys, service_accounts, users
from workflows_service.repository import FIELDS as WORKFLOW_FIELDS
from workflows_service.repository import RevisionRepository, WorkflowRepository
from workflows_service.tables import workflow_revisions, workflows

from tests import protos
from tests.services import owner_of

TENANTS: Final = 5
ROWS: Final = 10_000
"""Rows of each table, in all tenants."""
ALIKE: Final = 10
"""Rows of a tenant that share a value, where a column has no value of its own per row."""
TENANT: Final = "plan-3"

_EXPLAIN: Final = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON)"
_FIND_PREPARED: Final = compile_statement(
    text("SELECT name, custom_plans FROM pg_prepared_statements WHERE statement = :sql")
)
_PER_TENANT: Final = ROWS // TENANTS
TOKENS: Final = PageTokens([Fernet.generate_key().decode()])


@dataclass
class Request:
    """What every List method is asked."""

    page_size: int = 50
    page_token: str = ""
    filter: str = ""
    order_by: str = ""
    show_deleted: bool = False


@dataclass(frozen=True)
class List:
    """A List method and what stands behind it."""

    method: str
    service: str
    table: Table
    fields: Fields | None
    page: Callable[[Any, Request], Awaitable[Page]]

    def __str__(self) -> str:
        return self.method


def row_id(number: int) -> str:
    """Returns the id of the row of this number, which is of tenant `plan-<number % 10>`."""
    return f"00000000-0000-7000-8000-{number:012x}"


PARENT: Final = row_id(3)
"""What the children of the tenant belong to."""

_users, _accounts = UserRepository(TOKENS), ServiceAccountRepository(TOKENS)
_keys, _revisions = ApiKeyRepository(TOKENS), RevisionRepository(TOKENS)
_workflows, _agents, _ipas = WorkflowRepository(TOKENS), AgentRepository(TOKENS), IpaRepository(TOKENS)
_deployments = DeploymentRepository(TOKENS)

_LISTS: Final = (
    List("ListUsers", "users", users, USER_FIELDS, lambda t, r: _users.page(t, r, method="")),
    List(
        "ListServiceAccounts", "users", service_accounts, ACCOUNT_FIELDS, lambda t, r: _accounts.page(t, r, method="")
    ),
    List("ListApiKeys", "users", api_keys, None, lambda t, r: _keys.page(t, PARENT, r, method="")),
    List("ListWorkflows", "workflows", workflows, WORKFLOW_FIELDS, lambda t, r: _workflows.page(t, r, method="")),
    List(
        "ListWorkflowRevisions",
        "workflows",
        workflow_revisions,
        None,
        lambda t, r: _revisions.page(t, PARENT, r, method=""),
    ),
    List("ListAgents", "agents", agents, AGENT_FIELDS, lambda t, r: _agents.page(t, r, method="")),
    List("ListIpas", "ipas", ipas, IPA_FIELDS, lambda t, r: _ipas.page(t, r, method="")),
    List("ListDeployments", "ipas", deployments, None, lambda t, r: _deployments.page(t, PARENT, r, method="")),
)


def _list_of(method: MethodDescriptor) -> List:
    """Returns the list of a service with one aggregate, in which the names follow from the service's."""
    built = owner_of(method.containing_service)
    assert built, f"no service implements {method.full_name}"
    name, repository = str(built), built.module("repository")
    stored = getattr(repository, f"{name[:-1].capitalize()}Repository")(TOKENS)
    return List(
        method.name, name, built.metadata.tables[name], repository.FIELDS, lambda t, r: stored.page(t, r, method="")
    )


_KNOWN: Final = {one.method for one in _LISTS}
LISTS: Final = (
    *_LISTS,
    *(_list_of(one) for one in protos.methods() if one.name.startswith("List") and one.name not in _KNOWN),
)

GETS: Final[Mapping[str, tuple[str, Table, Callable[[Any], Awaitable[object]]]]] = {
    "user": ("users", users, lambda t: _users.get(t, row_id(13))),
    "service account": ("users", service_accounts, lambda t: _accounts.get(t, row_id(13))),
    "API key": ("users", api_keys, lambda t: _keys.find_owner(t, row_id(13))),
    "workflow": ("workflows", workflows, lambda t: _workflows.get(t, row_id(13))),
    "workflow revision": ("workflows", workflow_revisions, lambda t: _revisions.get(t, PARENT, 7)),
    "agent": ("agents", agents, lambda t: _agents.get(t, row_id(13))),
    "IPA": ("ipas", ipas, lambda t: _ipas.get(t, row_id(13))),
    "deployment": ("ipas", deployments, lambda t: _deployments.get(t, PARENT, row_id(13))),
}
"""How each resource is read by its identity."""


def fill_statement(table: Table, fields: Fields | None) -> str:
    """Returns the statement that stores `ROWS` rows, evenly spread over the tenants."""
    columns = [column for column in table.columns if column.computed is None and column.name != "delete_time"]
    values = ", ".join(_value(column, fields) for column in columns)
    names = ", ".join(column.name for column in columns)
    return f"INSERT INTO {table.name} ({names}) SELECT {values} FROM generate_series(0, {ROWS - 1}) AS g"


def _value(column: Column[Any], fields: Fields | None) -> str:
    """Returns SQL for the value of row `g`: of its own where values tend to be, else shared by few rows of a tenant."""
    own, shared = f"g / {TENANTS}", f"g / {TENANTS} % {_PER_TENANT // ALIKE}"
    by_name = {
        "tenant_id": f"'plan-' || g % {TENANTS}",
        "id": _id("g"),
        "display_name": f"'Text ' || {own}",
        "email": f"'Text ' || {own}",
        "model": f"'Text ' || {own}",
        "labels": f"jsonb_build_object('team', 't' || {shared})",
        "roles": f"CASE WHEN {shared} = 0 THEN ARRAY['admin'] ELSE ARRAY['viewer', 'editor'] END",
        "tools": "'[]'",
    }
    if fields is None:
        # A child: of the first row of its tenant.
        by_name |= dict.fromkeys(("workflow_id", "service_account_id", "ipa_id"), _id(f"g % {TENANTS}")) | {
            "revision": own
        }
    elif isinstance(states := fields.by_name["state"], EnumField):
        common, *_, rare = (state.value for state in states.states)
        by_name["state"] = f"CASE WHEN {shared} = 0 THEN '{rare}' ELSE '{common}' END"
    by_type: dict[type[object], str] = {
        Text: f"'text ' || {shared}",
        Uuid: _id(shared),
        Integer: shared,
        BigInteger: "1",
        DateTime: f"'2026-01-01T00:00:00Z'::timestamptz + {own} * interval '1 s'",
        LargeBinary: "'bytes'",
        JSONB: "'{}'",
    }
    return by_name.get(column.name) or by_type[type(column.type)]


def _id(number: str) -> str:
    return f"('00000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid"


@dataclass
class Explaining:
    """A transaction that reads the plan of each statement before it runs it."""

    inner: Transaction
    plans: list["Plan"] = field(default_factory=list)
    asked: list[tuple[Statement, Mapping[str, Any]]] = field(default_factory=list)

    @property
    def tenant_id(self) -> str:
        return self.inner.tenant_id

    async def fetch_one(self, statement: Statement, values: Mapping[str, Any]) -> Row | None:
        await self._explain(statement, values)
        return await self.inner.fetch_one(statement, values)

    async def fetch_all(self, statement: Statement, values: Mapping[str, Any]) -> Any:
        await self._explain(statement, values)
        return await self.inner.fetch_all(statement, values)

    async def kept_plan(self) -> tuple[int, "Plan"]:
        """Returns what Postgres has kept for all values of the last statement, and how often it planned without."""
        statement, values = self.asked[-1]
        known = await self.inner.fetch_one(_FIND_PREPARED, {"sql": statement.alone})
        assert known is not None, "it has not run"
        arguments = [*statement.arguments(values), "app.tenant_id", TENANT, 30_000]
        literals = ", ".join(f"'{_spelled(value)}'" for value in arguments)
        sql = f"{_EXPLAIN} EXECUTE {known['name']}({literals})"
        rows = await self.inner.fetch_all(Statement(sql, (), {}), {})
        return known["custom_plans"], Plan(orjson.loads(rows[0]["QUERY PLAN"])[0]["Plan"])

    async def _explain(self, statement: Statement, values: Mapping[str, Any]) -> None:
        self.asked.append((statement, values))
        alone = f"{_EXPLAIN} {statement.alone}" if statement.alone else ""
        explaining = replace(statement, sql=f"{_EXPLAIN} {statement.sql}", alone=alone)
        rows = await self.inner.fetch_all(explaining, values)
        self.plans.append(Plan(orjson.loads(rows[0]["QUERY PLAN"])[0]["Plan"]))


Explain = Callable[[str], AbstractAsyncContextManager[Explaining]]
"""Opens a transaction of `TENANT` in the database of a service."""


def _spelled(value: Any) -> Any:
    """Returns what Postgres reads as the argument: of the numbers only times are large."""
    return to_datetime(value) if isinstance(value, int) and value > 10**12 else value


@dataclass(frozen=True)
class Plan:
    """What Postgres did for a statement."""

    root: Mapping[str, Any]

    @property
    def nodes(self) -> list[Mapping[str, Any]]:
        """Every step."""
        found, waiting = [], [self.root]
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting += node.get("Plans", [])
        return found

    @property
    def kinds(self) -> set[str]:
        """The kinds of the steps."""
        return {node["Node Type"] for node in self.nodes}

    def read(self, table: Table) -> int:
        """Returns how many rows of ``table`` were looked at, whether they were wanted or not."""
        dropped = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        return sum(
            round((node["Actual Rows"] + sum(node.get(name, 0) for name in dropped)) * node["Actual Loops"])
            for node in self.nodes
            if node.get("Relation Name") == table.name
        )

    def __str__(self) -> str:
        return orjson.dumps(self.root, option=orjson.OPT_INDENT_2).decode()
