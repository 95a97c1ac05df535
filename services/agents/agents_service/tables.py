"""The tables of this service; `migrations/` creates them."""

from api_common.db import metadata, resource_table
from api_common.reservations import reservation_tables
from api_common.watch import change_tables
from sqlalchemy import Column, Index, Text, text
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

agents = resource_table(
    "agents",
    METADATA,
    Column("description", Text, nullable=False, server_default=text("''")),
    Column("model", Text, nullable=False),
    Column("instructions", Text, nullable=False, server_default=text("''")),
    Column("tools", JSONB, nullable=False, server_default=text("'[]'")),
    Column("parameters", JSONB),
)
Index(None, agents.c.tenant_id, agents.c.model, agents.c.id)

reservations = reservation_tables(METADATA)
changes, change_horizons = change_tables(METADATA)
