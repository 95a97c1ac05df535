"""Opens what the servicers of a service are built from."""

import contextlib
from typing import Final

import structlog

from api_common.db import DRIVER_ERRORS, Database, schema_head
from api_common.listing import PageTokens
from api_common.sagas import Sagas
from api_common.server.service import Service, ServiceDependencies, StartError
from api_common.settings import Settings, TlsSettings
from api_common.siblings import Siblings
from api_common.telemetry import Metrics
from api_common.watch import ChangeNotifier, WatchFactory

_log: Final = structlog.get_logger()


async def open_dependencies(
    service: Service,
    settings: Settings,
    metrics: Metrics,
    stack: contextlib.AsyncExitStack,
    *,
    caller_tls: TlsSettings | None,
) -> ServiceDependencies:
    """Connects to the database and to siblings; ``stack`` closes the connections.

    Args:
        caller_tls: the certificate for calls to siblings; None calls them without TLS.

    Raises:
        StartError: the database does not answer, its schema is too old, or the pagination keys cannot be used.
    """
    database = await _connect(service, settings)
    stack.push_async_callback(database.close)
    metrics.watch_pool(lambda: database.occupancy)
    siblings = Siblings(settings.siblings, caller_tls, metrics)
    stack.push_async_callback(siblings.close)
    with service.using("PAGINATION_KEYS"):
        page_tokens = PageTokens([key.get_secret_value() for key in settings.pagination.keys])
    watch_factory = WatchFactory(ChangeNotifier(database), database, page_tokens, metrics, settings.watch)
    return ServiceDependencies(page_tokens, siblings, database, settings, Sagas(), watch_factory)


async def _connect(service: Service, settings: Settings) -> Database:
    try:
        database = await Database.connect(settings.database, application_name=service.name, quota=settings.quota)
    except DRIVER_ERRORS as error:
        raise StartError(f"cannot reach the database: {error}. Check {service.name.upper()}_DATABASE_URL.") from error
    try:
        found = await database.fetch_value("SELECT version_num FROM alembic_version")
    except DRIVER_ERRORS:
        found = None
    expected = schema_head(service.migrations)
    if found is None or found < expected:
        await database.close()
        raise StartError(
            f"the schema is at revision {found}, this release needs {expected}."
            f" Run `python -m {service.name}_service migrate`."
        )
    if found > expected:
        # During an upgrade and after a rollback; migrations only add.
        _log.warning("the schema is newer than this release", schema=found, release=expected)
    return database
