"""The rows of IPAs and of their deployments."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from api_common.db import Row, Statement, Transaction, compile_statement
from api_common.errors import NotFoundError, ResourceInfo
from api_common.listing import EnumField, Fields, IdField, IntegerField, PageTokens, TextField, TimestampField
from api_common.resources import BatchRepository, PartRepository, resource_fields
from sqlalchemy import bindparam, func, literal_column, select, update

from ipas_service.domain import LIFECYCLE, DeploymentState, State
from ipas_service.tables import deployments, ipas

FIELDS = resource_fields(
    ipas, State, workflow_id=IdField(ipas.c.workflow_id), workflow_revision=IntegerField(ipas.c.workflow_revision)
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
    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(ipas, resource="ipa", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)


_IDENTITY: Final = (deployments.c.tenant_id == bindparam("tenant_id"), deployments.c.id == bindparam("id"))
_GET: Final = compile_statement(select(deployments).where(*_IDENTITY))


class DeploymentRepository(PartRepository):
    """The deployments of a tenant's IPAs; they are never deleted."""

    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(deployments, parent="ipa_id", order=("create_time", "id"), page_tokens=page_tokens)

    async def get(self, transaction: Transaction, ipa_id: str, id: str) -> Row:
        """Returns a deployment of an IPA.

        Raises:
            NotFoundError: the tenant has no such IPA, or the IPA has no such deployment.
        """
        row = await transaction.fetch_one(_GET, {"tenant_id": transaction.tenant_id, "id": id})
        if row is None or row["ipa_id"] != ipa_id.lower():
            raise NotFoundError("The IPA has no such deployment.", resource=ResourceInfo("deployment", id))
        return row

    async def update(self, transaction: Transaction, id: str, values: Mapping[str, Any]) -> Row:
        new = {f"new_{name}": value for name, value in values.items()}
        row = await transaction.fetch_one(_change(tuple(values)), {**new, "tenant_id": transaction.tenant_id, "id": id})
        assert row is not None  # deployments are never deleted
        return row


@lru_cache(maxsize=8)
def _change(names: tuple[str, ...]) -> Statement:
    columns = deployments.c
    values: dict[str, Any] = {name: bindparam(f"new_{name}", type_=columns[name].type) for name in names}
    values |= {"version": columns.version + literal_column("1"), "update_time": func.now()}
    return compile_statement(update(deployments).where(*_IDENTITY).values(values).returning(*columns))
