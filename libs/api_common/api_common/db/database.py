"""The connections of a process to its service's database. No other module opens one with the driver (ADR 0003)."""

import asyncio
import contextlib
from functools import lru_cache
from typing import Any, Final, Self

import asyncpg
import orjson

from api_common.db.driver import DRIVER_ERRORS, is_refusal, set_codecs
from api_common.db.pool import Connection, Pool
from api_common.settings import DatabaseSettings, QuotaSettings

_CONNECT_SECONDS: Final = 10
_CLOSE_SECONDS: Final = 2
# A cancellation that reaches Postgres between two statements is lost; then ROLLBACK waits for the statement after it.
_ROLLBACK_SECONDS: Final = 1.0
_FIRST_THAT_LIMITS_TRANSACTIONS: Final = 17
_SESSION: Final = {
    # Ends what a request left behind even if this process is frozen or cut off: as long as a call may take.
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": "60s",
    "client_connection_check_interval": "5s",
    "lock_timeout": "0",
    # One request occupies one core: a filter that reads a whole tenant must not slow down others (ADR 20).
    "max_parallel_workers_per_gather": "0",
    # Compiling such a query would take longer than running it.
    "jit": "off",
}


class Database(Pool):
    """A pool of connections whose rows are ready for protobuf."""

    def __init__(
        self, settings: DatabaseSettings, *, application_name: str, quota: QuotaSettings | None = None
    ) -> None:
        super().__init__(
            self._open_one,
            size=settings.pool_size,
            share=settings.tenant_connections,
            timeout_seconds=settings.acquire_timeout_seconds,
        )
        self._url = settings.url.get_secret_value()
        self._session = {**_SESSION, "application_name": application_name}
        self._probe: Connection | None = None
        limits = quota or QuotaSettings()
        self.quotas_of = lru_cache(maxsize=4096)(lambda tenant_id: orjson.dumps(limits.of(tenant_id)).decode())
        """The quotas of a tenant, as the database reads them (ADR 37)."""
        self.limits_transactions = False
        """Whether the server ends a transaction at a time that is set within it: Postgres 17 and later."""

    @classmethod
    async def connect(
        cls, settings: DatabaseSettings, *, application_name: str, quota: QuotaSettings | None = None
    ) -> Self:
        """Opens one connection at once, so that a wrong URL is noticed at start."""
        database = cls(settings, application_name=application_name, quota=quota)
        database.release(await database.acquire(timeout_seconds=_CONNECT_SECONDS))
        return database

    async def reclaim(self, connection: Connection, failure: BaseException) -> None:
        """Takes back a connection on which work failed, and keeps it open if its session is still usable.

        A new connection costs several milliseconds, here and in Postgres, and callers are cancelled by the hundred.
        """
        if is_refusal(failure) or isinstance(failure, asyncio.CancelledError):
            # A second cancellation, by gRPC and by our own deadline at the same time, does not interrupt this.
            await asyncio.shield(asyncio.create_task(self.clean(connection)))
        else:
            self.discard(connection)

    async def clean(self, connection: Connection) -> None:
        """Ends the transaction of a connection, if it is in one, and gives the connection back."""
        try:
            # Without a transaction Postgres only warns.
            await self.roll_back(connection)
        except (TimeoutError, *DRIVER_ERRORS):
            self.discard(connection)
        except BaseException:
            self.discard(connection)
            raise
        else:
            self.release(connection)

    async def roll_back(self, connection: Connection) -> None:
        """Ends the transaction of a connection.

        Raises:
            TimeoutError: Postgres does not answer within a second.
        """
        async with asyncio.timeout(_ROLLBACK_SECONDS):
            await connection.execute("ROLLBACK")

    async def dedicated(self) -> Connection:
        """Opens a connection beside the pool, to listen on; the caller ends it."""
        name = f"{self._session['application_name']} listener"
        settings = {**self._session, "application_name": name}
        return await asyncpg.connect(self._url, server_settings=settings, timeout=_CONNECT_SECONDS)

    async def ping(self, *, timeout_seconds: float) -> bool:
        """Tells whether the server answers in time; on its own connection, so that a busy pool is not an outage."""
        try:
            async with asyncio.timeout(timeout_seconds):
                if self._probe is None or self._probe.is_closed():
                    self._probe = await asyncpg.connect(self._url, timeout=timeout_seconds)
                await self._probe.execute("SELECT 1")
        except (TimeoutError, *DRIVER_ERRORS):
            if self._probe is not None:
                self._probe.terminate()
                self._probe = None
            return False
        return True

    async def fetch_value(self, sql: str) -> Any:
        """Runs one query outside any tenant; for the checks at start."""
        connection = await self.acquire()
        try:
            return await connection.fetchval(sql)
        finally:
            self.release(connection)

    async def close(self) -> None:
        """Waits for the connections in use, then closes all; after 2 s it does not wait any longer."""
        if self._probe is not None:
            self._probe.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await super().close()

    async def _open_one(self) -> Connection:
        connection = await asyncpg.connect(self._url, server_settings=self._session, timeout=_CONNECT_SECONDS)
        try:
            await set_codecs(connection)
            self.limits_transactions = connection.get_server_version().major >= _FIRST_THAT_LIMITS_TRANSACTIONS
        except BaseException:
            connection.terminate()
            raise
        return connection
