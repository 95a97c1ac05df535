"""Creates reservations: a deployment holds the workflows that it needs until it is retired."""

from alembic import op

revision = "0004"
down_revision = "0003"

_OWN = "tenant_id = current_setting('app.tenant_id', true)"
_STATEMENTS = (
    """
    CREATE TABLE reservation_holders (
        tenant_id text NOT NULL,
        id uuid NOT NULL,
        name text NOT NULL,
        fencing_token bigint NOT NULL,
        release_time timestamptz,
        CONSTRAINT pk_reservation_holders PRIMARY KEY (tenant_id, id)
    )
    """,
    """
    CREATE TABLE reservations (
        tenant_id text NOT NULL,
        holder_id uuid NOT NULL,
        resource_id uuid NOT NULL,
        CONSTRAINT pk_reservations PRIMARY KEY (tenant_id, holder_id, resource_id)
    )
    """,
    "CREATE INDEX ix_reservations_tenant_id_resource_id ON reservations (tenant_id, resource_id)",
    "ALTER TABLE reservation_holders ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY reservation_holders_tenant ON reservation_holders USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON reservation_holders TO workflows_app",
    "ALTER TABLE reservations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY reservations_tenant ON reservations USING ({_OWN}) WITH CHECK ({_OWN})",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON reservations TO workflows_app",
)


def upgrade() -> None:
    for statement in _STATEMENTS:
        op.execute(statement)
