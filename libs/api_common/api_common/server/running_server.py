"""A service that answers: its gRPC server, its operations port, whether it is ready, and how it stops."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

import grpc
import structlog
from grpc_health.v1 import health, health_pb2
from prometheus_client import CollectorRegistry

from api_common.authn import KeySet
from api_common.db import Database
from api_common.server.operations import OperationsServer
from api_common.settings import ServerSettings

_READINESS_INTERVAL_SECONDS: Final = 1
_SERVING, _NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

_log: Final = structlog.get_logger()


class RunningServer:
    """A service that answers.

    Args:
        names: the full names of its contracts.
        end_streams: ends the open streams when the server drains.
    """

    def __init__(
        self,
        server: grpc.aio.Server,
        database: Database,
        settings: ServerSettings,
        registry: CollectorRegistry,
        names: Sequence[str],
        *,
        end_streams: Callable[[], Awaitable[None]],
    ) -> None:
        self._end_streams = end_streams
        self._server = server
        self._database = database
        self._settings = settings
        self._names = ("", *names)
        self._ready = False
        self._draining = False
        self.health: Final = health.aio.HealthServicer()
        self.operations: Final = OperationsServer(
            settings.host, settings.operations_port, registry=registry, is_ready=lambda: self._ready
        )
        self.grpc_port = 0

    @property
    def operations_port(self) -> int:
        """The port of the probes and metrics."""
        return self.operations.port

    async def start(self) -> None:
        """Begins to answer; not ready until the database has answered."""
        await self.set_ready(False)
        await self._server.start()

    async def watch_readiness(self, key_sets: Collection[KeySet]) -> None:
        """Sets readiness: the database answers, and each issuer has told its keys at least once. Never returns."""
        while True:
            alive = await self._database.ping(timeout_seconds=_READINESS_INTERVAL_SECONDS)
            await self.set_ready(alive and not self._draining and all(one.generation for one in key_sets))
            await asyncio.sleep(_READINESS_INTERVAL_SECONDS)

    async def drain(self) -> None:
        """Stops in order: readiness off, streams end, balancers notice, no new calls, calls end or are cancelled."""
        started = asyncio.get_running_loop().time()
        self._draining = True
        await self.set_ready(False)
        # Streams end first: they would use up the time of the other calls, and their clients resume elsewhere.
        await asyncio.gather(self._end_streams(), asyncio.sleep(self._settings.drain_delay_seconds))
        spent = asyncio.get_running_loop().time() - started
        await self._server.stop(max(0.0, self._settings.drain_seconds - spent))

    async def set_ready(self, ready: bool) -> None:
        """Makes the probes and the health service say whether the process should get traffic."""
        if ready != self._ready:
            _log.info("readiness changed", ready=ready)
        self._ready = ready
        for name in self._names:
            await self.health.set(name, _SERVING if ready else _NOT_SERVING)
