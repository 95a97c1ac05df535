"""Package db holds connections, statements, the tenant-bound transaction, idempotency keys, tables and migrations."""

from api_common.db.database import Database
from api_common.db.driver import (
    DRIVER_ERRORS,
    ConstraintErrors,
    Statement,
    compile_statement,
    set_codecs,
    to_datetime,
    to_micros,
)
from api_common.db.idempotency import IdempotencyKey
from api_common.db.migrations import SchemaTooOldError, schema_head, upgrade_schema
from api_common.db.pool import Connection, TenantSemaphore
from api_common.db.provisioning import DatabaseUrls, provision
from api_common.db.tables import metadata, resource_table, text_bytes
from api_common.db.transaction import Row, Transaction, TransactionOutcome, repeat_if_stale

__all__ = [
    "DRIVER_ERRORS",
    "Connection",
    "ConstraintErrors",
    "Database",
    "DatabaseUrls",
    "IdempotencyKey",
    "Row",
    "SchemaTooOldError",
    "Statement",
    "TenantSemaphore",
    "Transaction",
    "TransactionOutcome",
    "compile_statement",
    "metadata",
    "provision",
    "repeat_if_stale",
    "resource_table",
    "schema_head",
    "set_codecs",
    "text_bytes",
    "to_datetime",
    "to_micros",
    "upgrade_schema",
]
