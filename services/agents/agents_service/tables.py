"""The tables of this service; `migrations/` creates them."""

import sqlalchemy as sa
from api_common.db import metadata, resource_table
from api_common.reservations import reservation_tables
from api_common.watch import change_tables
from sqlalchemy.dialects.postgresql import JSONB

METADATA = metadata()

agents = resource_table(
    "agents",
    METADATA,
    sa.Column("description", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("instructions", sa.Text, nullable=False, server_default=sa.text("''")),
    sa.Column("tools", JSONB, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("parameters", JSONB),
)
sa.Index(None, agents.c.tenant_id, agents.c.model, agents.c.id)

reservations = reservation_tables(METADATA)
changes, change_horizons = change_tables(METADATA)
