"""The rows of agents."""

from api_common.listing import EnumField, Fields, IdField, LabelsField, PageTokens, TextField, TimestampField
from api_common.resources import BatchRepository

from agents_service.domain import LIFECYCLE, State
from agents_service.tables import agents

FIELDS = Fields(
    {
        "id": IdField(column=agents.c.id),
        "display_name": TextField(column=agents.c.display_name, sortable=True),
        "state": EnumField(column=agents.c.state, states=State),
        "model": TextField(column=agents.c.model, sortable=True),
        "labels": LabelsField(column=agents.c.labels),
        "create_time": TimestampField(column=agents.c.create_time, sortable=True),
        "update_time": TimestampField(column=agents.c.update_time, sortable=True),
        "created_by": TextField(column=agents.c.created_by),
    }
)


class AgentRepository(BatchRepository):
    """The agents of a tenant."""

    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(agents, resource="agent", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)
