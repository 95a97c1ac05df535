"""Package db: connections, statements, the tenant-bound transaction, idempotency keys, migrations."""

from api_common.db.database import (
    DRIVER_ERRORS,
    ConstraintErrors,
    Database,
    Statement,
    compile_statement,
    repeat_if_stale,
    set_codecs,
)
from api_common.db.idempotency import claim_key, idempotency_table, read_key, store_response
from api_common.db.migrations import schema_head, upgrade_schema
from api_common.db.pool import Connection
from api_common.db.provisioning import DatabaseUrls, provision
from api_common.db.tables import metadata, resource_table, text_bytes
from api_common.db.timestamps import to_datetime
from api_common.db.unit_of_work import (
    TENANT_SETTING,
    RoleChange,
    Row,
    Transaction,
    TransactionOutcome,
    UnitOfWork,
)

__all__ = [
    "DRIVER_ERRORS",
    "TENANT_SETTING",
    "Connection",
    "ConstraintErrors",
    "Database",
    "DatabaseUrls",
    "RoleChange",
    "Row",
    "Statement",
    "Transaction",
    "TransactionOutcome",
    "UnitOfWork",
    "claim_key",
    "compile_statement",
    "idempotency_table",
    "metadata",
    "provision",
    "read_key",
    "repeat_if_stale",
    "resource_table",
    "schema_head",
    "set_codecs",
    "store_response",
    "text_bytes",
    "to_datetime",
    "upgrade_schema",
]
