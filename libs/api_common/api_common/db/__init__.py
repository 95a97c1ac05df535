"""Package db holds connections, statements, the tenant-bound transaction, idempotency keys, tables and migrations."""

from api_common.db.database import Database as Database
from api_common.db.driver import DRIVER_ERRORS as DRIVER_ERRORS
from api_common.db.driver import ConstraintErrors as ConstraintErrors
from api_common.db.driver import Statement as Statement
from api_common.db.driver import compile_statement as compile_statement
from api_common.db.driver import set_codecs as set_codecs
from api_common.db.driver import to_datetime as to_datetime
from api_common.db.driver import to_micros as to_micros
from api_common.db.idempotency import IdempotencyKey as IdempotencyKey
from api_common.db.idempotency import ReplayedError as ReplayedError
from api_common.db.migrations import SchemaTooOldError as SchemaTooOldError
from api_common.db.migrations import schema_head as schema_head
from api_common.db.migrations import upgrade_schema as upgrade_schema
from api_common.db.pool import Connection as Connection
from api_common.db.pool import TenantSemaphore as TenantSemaphore
from api_common.db.pool import Turn as Turn
from api_common.db.provisioning import DatabaseUrls as DatabaseUrls
from api_common.db.provisioning import provision as provision
from api_common.db.tables import fitting as fitting
from api_common.db.tables import metadata as metadata
from api_common.db.tables import resource_table as resource_table
from api_common.db.transaction import Row as Row
from api_common.db.transaction import Transaction as Transaction
from api_common.db.transaction import TransactionOutcome as TransactionOutcome
from api_common.db.transaction import repeat_if_stale as repeat_if_stale
