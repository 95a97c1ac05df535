"""The rows of IPAs and of their deployments."""

from collections.abc import Mapping
from typing import Any, Final

from api_common.db import Row, Statement, Transaction, compile_statement
from api_common.errors import NotFoundError, ResourceInfo
from api_common.listing import (
    EnumField,
    Fields,
    IdField,
    IntegerField,
    LabelsField,
    Listing,
    Order,
    Page,
    PageRequest,
    PageTokens,
    Query,
    TextField,
    TimestampField,
)
from api_common.resources import BatchRepository
from sqlalchemy import bindparam, func, insert, literal_column, select, update

from ipas_service.domain import LIFECYCLE, DeploymentState, State
from ipas_service.tables import deployments, ipas

FIELDS = Fields(
    {
        "id": IdField(column=ipas.c.id),
        "display_name": TextField(column=ipas.c.display_name, sortable=True),
        "state": EnumField(column=ipas.c.state, states=State),
        "workflow_id": IdField(column=ipas.c.workflow_id),
        "workflow_revision": IntegerField(column=ipas.c.workflow_revision),
        "labels": LabelsField(column=ipas.c.labels),
        "create_time": TimestampField(column=ipas.c.create_time, sortable=True),
        "update_time": TimestampField(column=ipas.c.update_time, sortable=True),
        "created_by": TextField(column=ipas.c.created_by),
    }
)

DEPLOYMENT_FIELDS = Fields(
    {
        "id": IdField(column=deployments.c.id),
        "ipa_id": IdField(column=deployments.c.ipa_id),
        "state": EnumField(column=deployments.c.state, states=DeploymentState),
        "create_time": TimestampField(column=deployments.c.create_time),
        "update_time": TimestampField(column=deployments.c.update_time),
        "created_by": TextField(column=deployments.c.created_by),
    }
)

COLUMNS = tuple(column.name for column in ipas.columns)
"""Every column of an IPA; all of them are small."""


class IpaRepository(BatchRepository):
    """The IPAs of a tenant."""

    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(ipas, resource="ipa", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)


_NEWEST_FIRST: Final = Order.descending(deployments.c.create_time, deployments.c.id)
_named: Final = (deployments.c.tenant_id == bindparam("tenant_id"), deployments.c.id == bindparam("id"))
_GET: Final = compile_statement(select(deployments).where(*_named))
_CREATED: Final = (
    *("tenant_id", "id", "ipa_id", "state", "workflow_id", "workflow_revision"),
    *("agent_bindings", "variables", "steps", "created_by"),
)
_INSERT: Final = compile_statement(
    insert(deployments).values({name: bindparam(name) for name in _CREATED}).returning(*deployments.c)
)


def _update(*names: str) -> Statement:
    columns = deployments.c
    values: dict[str, Any] = {name: bindparam(f"new_{name}", type_=columns[name].type) for name in names}
    values |= {"version": columns.version + literal_column("1"), "update_time": func.now()}
    return compile_statement(update(deployments).where(*_named).values(values).returning(*columns))


_DEPLOYING: Final = _update("state", "steps", "workflow_revision")
_RETIRING: Final = _update("state", "retire_steps")


class DeploymentRepository:
    """The deployments of a tenant's IPAs; they are never deleted."""

    def __init__(self, page_tokens: PageTokens) -> None:
        self._listing = Listing(deployments, page_tokens=page_tokens)

    async def get(self, transaction: Transaction, ipa_id: str, id: str) -> Row:
        """Returns a deployment of an IPA.

        Raises:
            NotFoundError: the tenant has no such IPA, or the IPA has no such deployment.
        """
        row = await transaction.fetch_one(_GET, {"tenant_id": transaction.tenant_id, "id": id})
        if row is None or row["ipa_id"] != ipa_id.lower():
            raise NotFoundError("The IPA has no such deployment.", resource=ResourceInfo("deployment", id))
        return row

    async def page(self, transaction: Transaction, ipa_id: str, request: PageRequest, *, method: str) -> Page:
        """Returns one page of the deployments of an IPA, newest first.

        Raises:
            ValidationError: a parameter is malformed, or the page token was issued for another call.
        """
        query = Query(method=method, order=_NEWEST_FIRST, parent={"ipa_id": ipa_id})
        return await self._listing.page(transaction, request, query)

    async def insert(self, transaction: Transaction, values: Mapping[str, Any]) -> Row:
        """Stores a new deployment and returns it."""
        row = await transaction.fetch_one(_INSERT, {**values, "tenant_id": transaction.tenant_id})
        assert row is not None  # INSERT … RETURNING
        return row

    async def show_deploying(
        self, transaction: Transaction, id: str, *, state: str, steps: object, workflow_revision: int
    ) -> Row:
        """Writes the progress of the steps that deploy the IPA, and returns the deployment."""
        values = {"new_state": state, "new_steps": steps, "new_workflow_revision": workflow_revision}
        return await self._write(transaction, id, _DEPLOYING, values)

    async def show_retiring(self, transaction: Transaction, id: str, *, state: str, steps: object) -> Row:
        """Writes the progress of the steps that retire the IPA, and returns the deployment."""
        return await self._write(transaction, id, _RETIRING, {"new_state": state, "new_retire_steps": steps})

    async def _write(self, transaction: Transaction, id: str, statement: Statement, values: Mapping[str, Any]) -> Row:
        row = await transaction.fetch_one(statement, {**values, "tenant_id": transaction.tenant_id, "id": id})
        assert row is not None  # deployments are never deleted
        return row
