"""A proxy before Postgres that counts what a service sends: on the wire no message is missed."""

import asyncio
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import parse_qs, urlsplit

_ENDS_TURN: Final = (b"S", b"Q")
"""Sync and Query: of all messages that asyncpg sends, only these make the client wait for an answer."""


class Wire:
    """The messages since the last reset, without simple queries outside transactions, which wake watchers."""

    def __init__(self) -> None:
        self.messages: Final[Counter[bytes]] = Counter()
        """The number of messages by type, a byte of Postgres' protocol."""
        self._url = ""

    @property
    def round_trips(self) -> int:
        """The number of round trips."""
        return sum(self.messages[kind] for kind in _ENDS_TURN)

    @property
    def statements(self) -> int:
        """The number of statements with parameters; BEGIN and COMMIT have none."""
        return self.messages[b"E"]

    @asynccontextmanager
    async def before(self, url: str) -> AsyncIterator[str]:
        """Yields a URL of the same database through this proxy."""
        self._url = url
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            user, _, _ = urlsplit(url).netloc.rpartition("@")
            netloc = f"{user}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield urlsplit(url)._replace(netloc=netloc, query="sslmode=disable").geturl()

    async def _serve(self, client: StreamReader, to_client: StreamWriter) -> None:
        postgres, to_postgres = await self._connect()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on(client, to_postgres))
            group.create_task(_copy(postgres, to_client))

    async def _connect(self) -> tuple[StreamReader, StreamWriter]:
        parts = urlsplit(self._url)
        host, port = parse_qs(parts.query).get("host", [parts.hostname or ""])[0], parts.port or 5432
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _pass_on(self, client: StreamReader, to_postgres: StreamWriter) -> None:
        # Only the first message, which names user and database, has no type.
        kind, inside = b"", False
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                length = await client.readexactly(4)
                body = await client.readexactly(int.from_bytes(length) - 4)
                to_postgres.write(kind + length + body)
                inside |= body.startswith(b"BEGIN")
                self.messages[kind] += inside or kind != b"Q"
                inside &= not body.endswith((b"COMMIT\0", b"ROLLBACK\0"))
                kind = await client.readexactly(1)
        to_postgres.close()


async def _copy(source: StreamReader, target: StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
    target.close()
