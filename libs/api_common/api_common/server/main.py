"""The main() of all services: settings, pool, layers, health, reflection, operations port, drain."""

import asyncio
import contextlib
import gc
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import jwt
import structlog
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from api_common.authn import (
    CLAIM_MAPS,
    INTERNAL_ISSUER,
    MAX_AGE_SECONDS,
    DiscoveredKeySet,
    FileKeySet,
    IssuerRouter,
    KeySet,
    OidcAuthProvider,
    PeerPolicy,
    server_credentials,
)
from api_common.authz import Directory, UserSource, UsersService
from api_common.db import DRIVER_ERRORS, ConstraintErrors, Database, schema_head, upgrade_schema
from api_common.listing import PageTokens
from api_common.rpc import MAX_RESPONSE_BYTES, Pipeline, Streams, service_handler, unknown_method_handler
from api_common.sagas import Plan, SagaMetrics, Sagas, SagaWorker
from api_common.server.ext_authz import ApiKeyAuthority, check_handler
from api_common.server.operations import OperationsServer
from api_common.server.retention import reap_forever
from api_common.settings import (
    AuthSettings,
    ServerSettings,
    Settings,
    SettingsError,
    TelemetrySettings,
    TlsSettings,
    load_owner_url,
)
from api_common.siblings import Siblings
from api_common.telemetry import AccessLog, Metrics, Tracer, configure_logging, export_forever
from api_common.watch import ChangeNotifier, WatchFactory

MAX_METADATA_BYTES: Final = 64 * 1024
"""Above what the edge lets through: gRPC's own default refuses at random between 8 and 16 KiB."""

_READINESS_INTERVAL_SECONDS: Final = 1
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

_OPTIONS: Final = (
    # Above the 10 MiB that admission accepts, so that the refusal is ours, in our shape.
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_concurrent_streams", 1000),
    # A second process on the port must fail loudly, not share it.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # A caller looks for replicas that came since only when it connects anew; calls and streams under way are finished.
    ("grpc.max_connection_age_ms", 15 * 60_000),
)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServiceDependencies:
    """What servicers are built from."""

    page_tokens: PageTokens
    siblings: Siblings
    database: Database
    settings: Settings
    sagas: Sagas
    watches: WatchFactory


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service of the mesh, as `serve` needs it."""

    name: str
    """`users`: the prefix of its settings and the name in logs and metrics."""
    servicers: Mapping[ServiceDescriptor, Callable[[ServiceDependencies], object]]
    """Builds the servicer of each contract; called once."""
    constraints: ConstraintErrors
    """What a broken constraint means to the caller."""
    migrations: Path
    """The folder of its Alembic environment."""
    siblings: Sequence[str] = ()
    """Services that it calls."""
    callers: Sequence[str] = ("edge",)
    """The processes that may call its public methods, by the names in their certificates."""
    internal_callers: Sequence[str] = ()
    """The services that may call its internal methods, and thereby no others."""
    stored_users: Callable[[ServiceDependencies], UserSource] | None = None
    """Builds what reads the stored users, in the one service that has them; all others name `users` in `siblings`."""
    api_keys: Callable[[ServiceDependencies], ApiKeyAuthority] | None = None
    """Builds what knows the API keys, in the one service that issues them; called once."""
    plans: Callable[[ServiceDependencies], Sequence[Plan]] | None = None
    """Builds the plans of its sagas, if it has any; called once."""

    @property
    def descriptors(self) -> Sequence[ServiceDescriptor]:
        """The contracts that it implements."""
        return tuple(self.servicers)


def run_service(service: Service) -> None:
    """Runs the command that the process was started with: serve, or `migrate`."""
    try:
        if sys.argv[1:] == ["migrate"]:
            upgrade_schema(service.migrations, load_owner_url(service.name))
        elif sys.argv[1:]:
            raise SystemExit(f"usage: python -m {service.name}_service [migrate]")
        else:
            settings = Settings.load(service.name, siblings=service.siblings, api_keys=service.api_keys is not None)
            configure_logging(service.name, settings.log.level)
            uvloop.run(_serve(service, settings))
    except (SettingsError, StartError) as error:
        raise SystemExit(f"{service.name}: {error}") from None


class StartError(Exception):
    """The process cannot serve; the message says why and what to do."""


async def _serve(service: Service, settings: Settings) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    with _naming(service, "TLS_*_PATH"):
        credentials = server_credentials(settings.tls)
    async with running(service, settings, credentials=credentials) as server:
        _log.info("serving", grpc_port=server.grpc_port, operations_port=server.operations_port)
        await stopping.wait()
        await server.drain()
    _log.info("stopped")


class RunningServer:
    """A service that answers."""

    def __init__(
        self,
        server: grpc.aio.Server,
        database: Database,
        settings: Settings,
        metrics: Metrics,
        names: Sequence[str],
        *,
        end_streams: Callable[[], Awaitable[None]],
    ) -> None:
        self._end_streams = end_streams
        self._server = server
        self._database = database
        self._settings = settings.server
        self._names = ("", *names)
        self._ready = False
        self._draining = False
        self.health: Final = health.aio.HealthServicer()
        self.operations: Final = OperationsServer(
            settings.server.host,
            settings.server.operations_port,
            registry=metrics.registry,
            is_ready=lambda: self._ready,
        )
        self.grpc_port = 0

    @property
    def operations_port(self) -> int:
        """The port of the probes and metrics."""
        return self.operations.port

    async def start(self) -> None:
        """Begins to answer; not ready until the database was seen."""
        await self._set_ready(False)
        await self._server.start()

    async def watch_readiness(self) -> None:
        """Follows the database: without it there is no traffic worth having. Never returns."""
        while True:
            alive = await self._database.ping(timeout_seconds=_READINESS_INTERVAL_SECONDS)
            await self._set_ready(alive and not self._draining)
            await asyncio.sleep(_READINESS_INTERVAL_SECONDS)

    async def drain(self) -> None:
        """Stops in order: readiness off, streams end, balancers notice, no new calls, calls end or are cancelled."""
        started = asyncio.get_running_loop().time()
        self._draining = True
        await self._set_ready(False)
        # Streams go first: they would use up the time of the others, and their clients go on elsewhere.
        await asyncio.gather(self._end_streams(), asyncio.sleep(self._settings.drain_delay_seconds))
        spent = asyncio.get_running_loop().time() - started
        await self._server.stop(max(0.0, self._settings.drain_seconds - spent))

    async def _set_ready(self, ready: bool) -> None:
        if ready != self._ready:
            _log.info("readiness changed", ready=ready)
        self._ready = ready
        for name in self._names:
            await self.health.set(name, _SERVING if ready else _NOT_SERVING)


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
        directory: stands in for what asks the users service, in tests.
        caller_tls: what siblings are called with by a server that has no TLS itself, in tests.

    Raises:
        StartError: the database does not answer, its schema is not current, or a port, file or key cannot be used.
    """
    metrics = Metrics(CollectorRegistry())
    async with contextlib.AsyncExitStack() as stack:
        database = await _connect(service, settings)
        stack.push_async_callback(database.close)
        metrics.watch_pool(lambda: database.occupancy)
        siblings = Siblings(settings.siblings, caller_tls if credentials is None else settings.tls, metrics)
        stack.push_async_callback(siblings.close)
        with _naming(service, "AUTH_JWKS_PATH"):
            key_sets = {settings.auth.issuer: _key_set(settings.auth)}
        with _naming(service, "AUTH_INTERNAL_JWKS_PATH"):
            if settings.auth.internal_jwks_path is not None:
                key_sets[INTERNAL_ISSUER] = FileKeySet(settings.auth.internal_jwks_path)
        with _naming(service, "PAGINATION_KEYS"):
            page_tokens = PageTokens([key.get_secret_value() for key in settings.pagination.keys])
        watches = WatchFactory(ChangeNotifier(database), database, page_tokens, metrics, settings.watch)
        streams = Streams(watches.notifier)
        parts = ServiceDependencies(page_tokens, siblings, database, settings, Sagas(), watches)
        auth = PeerPolicy(
            _issuers(settings.auth, key_sets),
            service=service.name,
            callers=service.callers,
            internal_callers=service.internal_callers,
        )
        tracer = _tracer(service, settings.telemetry)
        if tracer is not None:
            stack.push_async_callback(tracer.close)
        pipeline = Pipeline(
            auth=auth,
            directory=directory or Directory(_stored_users(service, parts)),
            database=database,
            constraints=service.constraints,
            metrics=metrics,
            access_log=AccessLog(service.name),
            notifier=watches.notifier,
            streams=streams,
            watch=settings.watch,
            tracer=tracer,
        )
        server = grpc.aio.server(options=_OPTIONS)
        names = [descriptor.full_name for descriptor in service.descriptors]
        with _naming(service, "SERVER_OPERATIONS_PORT"):
            result = RunningServer(server, database, settings, metrics, names, end_streams=streams.end)
        stack.callback(result.operations.close)
        health_pb2_grpc.add_HealthServicer_to_server(result.health, server)
        if settings.server.reflection_enabled:
            reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        handlers = [
            service_handler(contract, build(parts), layers=pipeline.compose)
            for contract, build in service.servicers.items()
        ]
        if service.api_keys is not None:
            with _naming(service, "APIKEYS_SIGNING_KEY_PATH"):
                authority = service.api_keys(parts)
            handlers.append(check_handler(authority, metrics=metrics, access_log=pipeline.access_log, tracer=tracer))
        server.add_generic_rpc_handlers((*handlers, unknown_method_handler()))
        result.grpc_port = _bind(server, settings.server, credentials)
        await result.start()
        stack.push_async_callback(server.stop, None)
        for background in (
            result.watch_readiness(),
            metrics.watch_loop(),
            reap_forever(database, metrics, settings),
            watches.notifier.run(),
            *map(_keep_fresh, key_sets.values()),
            *_exports(service, settings.telemetry, metrics),
        ):
            stack.callback(asyncio.create_task(background).cancel)
        if service.plans is not None:
            saga_metrics = SagaMetrics(metrics.registry)
            worker = SagaWorker(
                database, service.plans(parts), parts.sagas, saga_metrics, committed=watches.notifier.wake
            )
            stack.push_async_callback(worker.stop)
            stack.callback(asyncio.create_task(worker.run_forever()).cancel)
        # What lives now lives for good: keep it out of every later collection (p99, not the mean).
        gc.collect()
        gc.freeze()
        yield result


@contextlib.contextmanager
def _naming(service: Service, setting: str) -> Iterator[None]:
    """Says which setting it is that cannot be used."""
    try:
        yield
    except (OSError, ValueError, jwt.PyJWTError) as error:
        raise StartError(f"{service.name.upper()}_{setting} cannot be used: {error}.") from error


def _exports(service: Service, settings: TelemetrySettings, metrics: Metrics) -> Iterator[Coroutine[Any, Any, None]]:
    if settings.otlp_endpoint:
        yield export_forever(
            metrics.registry,
            service=service.name,
            endpoint=settings.otlp_endpoint,
            interval_seconds=settings.metrics_interval_seconds,
        )


def _tracer(service: Service, settings: TelemetrySettings) -> Tracer | None:
    if not settings.otlp_endpoint:
        return None
    return Tracer(service.name, endpoint=settings.otlp_endpoint, sample_ratio=settings.sample_ratio)


def _key_set(settings: AuthSettings) -> KeySet:
    return DiscoveredKeySet(settings.issuer) if settings.jwks_path is None else FileKeySet(settings.jwks_path)


def _issuers(settings: AuthSettings, key_sets: Mapping[str, KeySet]) -> IssuerRouter:
    claims = CLAIM_MAPS[settings.claims]
    users = OidcAuthProvider(
        issuer=settings.issuer, audience=settings.audience, key_set=key_sets[settings.issuer], claims=claims
    )
    if (internal := key_sets.get(INTERNAL_ISSUER)) is None:
        return IssuerRouter({settings.issuer: users})
    programs = OidcAuthProvider(
        issuer=INTERNAL_ISSUER, audience=settings.audience, key_set=internal, kind="service_account"
    )
    return IssuerRouter({settings.issuer: users, INTERNAL_ISSUER: programs})


def _stored_users(service: Service, parts: ServiceDependencies) -> UserSource:
    if service.stored_users is not None:
        return service.stored_users(parts)
    if "users" not in parts.settings.siblings:
        raise StartError("whether a user may still call, only the users service knows: name it among the siblings.")
    return UsersService(parts.siblings)


async def _keep_fresh(key_set: KeySet) -> None:
    """Follows the issuer's keys. Never returns."""
    while True:
        await asyncio.sleep(MAX_AGE_SECONDS)
        await key_set.refresh()


async def _connect(service: Service, settings: Settings) -> Database:
    try:
        database = await Database.connect(settings.database, application_name=service.name)
    except DRIVER_ERRORS as error:
        raise StartError(f"cannot reach the database: {error}. Check {service.name.upper()}_DATABASE_URL.") from error
    try:
        found = await database.fetch_value("SELECT version_num FROM alembic_version")
    except DRIVER_ERRORS:
        found = None
    expected = schema_head(service.migrations)
    if found != expected:
        await database.close()
        raise StartError(
            f"the schema is at revision {found}, this release needs {expected}."
            f" Run `python -m {service.name}_service migrate`."
        )
    return database


def _bind(server: grpc.aio.Server, settings: ServerSettings, credentials: grpc.ServerCredentials | None) -> int:
    address = f"{settings.host}:{settings.grpc_port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}: the port is taken.") from error
