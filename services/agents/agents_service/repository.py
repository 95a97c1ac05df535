"""The rows of agents."""

from api_common.listing import PageTokens, TextField
from api_common.resources import BatchRepository, resource_fields

from agents_service.domain import LIFECYCLE, State
from agents_service.tables import agents

FIELDS = resource_fields(agents, State, model=TextField(agents.c.model, sortable=True))


class AgentRepository(BatchRepository):
    def __init__(self, page_tokens: PageTokens) -> None:
        super().__init__(agents, resource="agent", fields=FIELDS, lifecycle=LIFECYCLE, page_tokens=page_tokens)
