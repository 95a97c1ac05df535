"""A door between a service and its Postgres that a test can shut, or leave open with nobody behind it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

POSTGRES_PORT: Final = 5432

_FIELDS: Final = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
TERMINATING: Final = b"E" + (len(_FIELDS) + 4).to_bytes(4) + _FIELDS
"""What Postgres says before it ends a connection (ErrorResponse of its protocol)."""


class Proxy:
    """Passes bytes between its port and a Postgres."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._open = asyncio.Event()
        self._open.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator[Self]:
        """Stands before the Postgres of ``url``."""
        proxy = cls(url)
        await proxy.restore()
        try:
            yield proxy
        finally:
            proxy.thaw()
            await proxy.cut()

    @property
    def url(self) -> str:
        """The way through the door."""
        netloc = f"{self._target.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"
        return self._target._replace(netloc=netloc, query="").geturl()

    async def cut(self) -> None:
        """Ends every connection and refuses new ones, as a server that has stopped."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for pump in tuple(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def restore(self) -> None:
        """Lets connections pass again, on the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        """Accepts everything and passes nothing on, as a server that hangs."""
        self._open.clear()

    def thaw(self) -> None:
        """Passes on what came in since."""
        self._open.set()

    def strand(self) -> None:
        """Passes nothing more on for the connections of today and ends none, as a network that lost a server."""
        self._open.clear()
        self._open = asyncio.Event()
        self._open.set()

    async def announce_the_end(self) -> None:
        """Says to every client that its connection ends, and does not end it yet: the network may be that slow."""
        for client in self._clients:
            client.write(TERMINATING)
            await client.drain()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._track(asyncio.current_task())
        self._clients.add(writer)
        with suppress(OSError, asyncio.CancelledError):
            behind_reader, behind_writer = await self._connect()
            pumps = [self._pump(reader, behind_writer, self._open), self._pump(behind_reader, writer, self._open)]
            try:
                await asyncio.gather(*pumps)
            finally:
                behind_writer.close()
        self._clients.discard(writer)
        writer.close()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event) -> None:
        while chunk := await reader.read(65536):
            await is_open.wait()
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = parse_qs(self._target.query).get("host", [""])[0]
        port = self._target.port or POSTGRES_PORT
        if folder:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.hostname, port)

    def _track(self, task: asyncio.Task[None] | None) -> None:
        assert task is not None
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
