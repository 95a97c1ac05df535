"""The rows of IPAs."""

from api_common.batch_repository import BatchRepository
from api_common.fields import EnumField, Fields, IdField, IntegerField, LabelsField, TextField, TimestampField
from api_common.pagination import PageTokens

from ipas_service.domain import LIFECYCLE, State
from ipas_service.tables import ipas

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

COLUMNS = tuple(column.name for column in ipas.columns)
"""All of an IPA, whose parts are small."""


class IpaRepository(BatchRepository):
    """The IPAs of a tenant."""

    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(ipas, resource="ipa", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)
