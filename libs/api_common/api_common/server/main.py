"""The main() of all services: settings, dependencies, layers, server, background tasks."""

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import grpc
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from api_common.authn import KeySet, server_credentials
from api_common.authz import Directory, UserSource, UsersService
from api_common.db import SchemaTooOldError, upgrade_schema
from api_common.rpc import AccessLog, AnswerCache, Pipeline, Shares, Streams
from api_common.sagas import SagaMetrics, SagaWorker
from api_common.server.authentication import open_authenticator, open_key_sets, refresh_forever
from api_common.server.dependencies import open_dependencies
from api_common.server.grpc_server import start_server
from api_common.server.retention import reap_forever
from api_common.server.running_server import RunningServer
from api_common.server.service import Service, ServiceDependencies, StartError
from api_common.server.supervisor import Supervisor
from api_common.settings import Settings, SettingsError, TelemetrySettings, TlsSettings, load_owner_url
from api_common.telemetry import Metrics, Tracer, configure_logging

_log: Final = structlog.get_logger()


def run_service(service: Service) -> None:
    """Runs the command that the process was started with: serve, or `migrate`."""
    try:
        if sys.argv[1:] == ["migrate"]:
            owner_url = load_owner_url(service.name)
            configure_logging(service.name, "info")
            upgrade_schema(service.migrations, owner_url)
        elif sys.argv[1:]:
            raise SystemExit(f"usage: python -m {service.name}_service [migrate]")
        else:
            settings = Settings.load(service.name, siblings=service.siblings, api_keys=service.api_keys is not None)
            configure_logging(service.name, settings.log.level)
            uvloop.run(_serve(service, settings))
    except (SchemaTooOldError, SettingsError, StartError) as error:
        raise SystemExit(f"{service.name}: {error}") from None


async def _serve(service: Service, settings: Settings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with service.using("TLS_*_PATH"):
        credentials = server_credentials(settings.tls)
    async with running(service, settings, credentials=credentials) as server:
        _log.info("serving", grpc_port=server.grpc_port, operations_port=server.operations_port)
        await stopping.wait()
        await server.drain()
    _log.info("stopped")


@contextlib.asynccontextmanager
async def running(
    service: Service,
    settings: Settings,
    *,
    credentials: grpc.ServerCredentials | None,
    directory: Directory | None = None,
    caller_tls: TlsSettings | None = None,
) -> AsyncIterator[RunningServer]:
    """Starts ``service`` and stops it on exit.

    Args:
        credentials: None serves without TLS, on loopback in tests.
        directory: replaces the users service as the source of stored users, in tests.
        caller_tls: the certificate for calls to siblings from a server without TLS, in tests.

    Raises:
        StartError: the database does not answer, its schema is too old, or a port, file or key cannot be used.
    """
    metrics = Metrics(CollectorRegistry())
    tls = caller_tls if credentials is None else settings.tls
    async with contextlib.AsyncExitStack() as stack:
        dependencies = await open_dependencies(service, settings, metrics, stack, caller_tls=tls)
        key_sets = open_key_sets(service, settings.auth, stack)
        tracer = _open_tracer(service, settings.telemetry, stack)
        notifier = dependencies.watch_factory.notifier
        shares = Shares(settings.shares)
        metrics.watch_shares(lambda: [*shares.use, dependencies.database.share])
        pipeline = Pipeline(
            authenticator=open_authenticator(service, settings, key_sets),
            directory=directory or Directory(_stored_users(service, dependencies)),
            database=dependencies.database,
            constraints=service.constraints,
            metrics=metrics,
            access_log=AccessLog(service.name),
            streams=Streams(notifier),
            watch=settings.watch,
            shares=shares,
            cache=AnswerCache(settings.cache.bytes, notifier, metrics),
            tracer=tracer,
        )
        server = await start_server(service, dependencies, pipeline, stack, credentials=credentials)
        _start_background_tasks(service, dependencies, server, stack, pipeline=pipeline, key_sets=key_sets)
        # What lives now lives for good: keep it out of every later collection (p99, not the mean).
        gc.collect()
        gc.freeze()
        yield server


def _open_tracer(service: Service, settings: TelemetrySettings, stack: contextlib.AsyncExitStack) -> Tracer | None:
    if not settings.otlp_endpoint:
        return None
    tracer = Tracer(service.name, endpoint=settings.otlp_endpoint, sample_ratio=settings.sample_ratio)
    stack.push_async_callback(tracer.close)
    return tracer


def _stored_users(service: Service, dependencies: ServiceDependencies) -> UserSource:
    if service.stored_users is not None:
        return service.stored_users(dependencies)
    if "users" not in dependencies.settings.siblings:
        raise StartError("only the users service knows whether a user may still call: name it among the siblings.")
    return UsersService(dependencies.siblings)


def _start_background_tasks(
    service: Service,
    dependencies: ServiceDependencies,
    server: RunningServer,
    stack: contextlib.AsyncExitStack,
    *,
    pipeline: Pipeline,
    key_sets: Mapping[str, KeySet],
) -> None:
    settings, notifier, metrics = dependencies.settings, pipeline.streams.notifier, pipeline.metrics
    tasks: dict[str, Callable[[], Awaitable[None]]] = {
        "loop lag": metrics.watch_loop,
        "reaper": partial(reap_forever, dependencies.database, metrics, settings),
        "change notifier": notifier.run,
        "key refresh": partial(refresh_forever, key_sets.values()),
    }
    if settings.telemetry.otlp_endpoint:
        tasks["metrics export"] = partial(
            metrics.export_forever,
            service.name,
            settings.telemetry.otlp_endpoint,
            settings.telemetry.metrics_interval_seconds,
        )
    if service.plans is not None:
        plans, saga_metrics = service.plans(dependencies), SagaMetrics(metrics.registry)
        worker = SagaWorker(
            pipeline.database, plans, dependencies.sagas, saga_metrics, committed=notifier.wake, tracer=pipeline.tracer
        )
        # After the supervisor, so that the worker takes no more sagas.
        stack.push_async_callback(worker.stop)
        tasks["saga worker"] = worker.run_forever
    supervisor = Supervisor(metrics.registry)
    stack.push_async_callback(supervisor.close)
    # While readiness is not watched, it is off.
    watch_readiness = partial(server.watch_readiness, key_sets.values())
    supervisor.start("readiness", watch_readiness, on_death=partial(server.set_ready, False))
    for name, run in tasks.items():
        supervisor.start(name, run)
