"""Connections as a hostile client opens them: raw, many, and never finished."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from tests.e2e.edge.plugin import Edge

MIB: Final = 1024 * 1024
UNFINISHED: Final = 9 * MIB
"""What arrives of a body that claims to be larger."""
_CHUNK: Final = b"x" * (64 * 1024)
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Raw:
    """One connection; what was read from it is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.received = b""
        self.is_closed = False
        self._reading = asyncio.create_task(self._read())

    @property
    def status(self) -> int | None:
        """The status of the first answer."""
        line = self.received.split(b" ", 2)
        return int(line[1]) if len(line) > 2 else None

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65536):
                self.received += data
        except OSError:
            pass
        self.is_closed = True

    async def send(self, data: bytes) -> bool:
        """Returns whether the peer still takes bytes."""
        if not self.is_closed:
            try:
                self._writer.write(data)
                await self._writer.drain()
            except OSError:
                self.is_closed = True
        return not self.is_closed

    async def closed(self) -> None:
        """Returns when the peer has closed the connection."""
        await self._reading

    def abandon(self) -> None:
        self._reading.cancel()
        self._writer.transport.abort()


@asynccontextmanager
async def connected(
    edge: Edge, count: int, address: str = "127.0.0.1", port: int | None = None
) -> AsyncIterator[list[Raw]]:
    """Opens so many connections from ``address``, to the plain port unless said; all end with the block."""
    connections = [Raw(*await _open(port or edge.port, address)) for _ in range(count)]
    try:
        yield connections
    finally:
        for one in connections:
            one.abandon()


async def _open(port: int, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    connecting = socket.socket()
    # What the kernel keeps in the edge's place is no part of the question.
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(_CHUNK))
    connecting.setblocking(False)
    connecting.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
    return await asyncio.open_connection(sock=connecting)


def head(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = (f"{name}: {value}" for name, value in (("host", "x"), *headers))
    return "\r\n".join((f"{method} {path} HTTP/1.1", *lines, "", "")).encode()


async def send_unfinished(connection: Raw, start: bytes, *, chunked: bool) -> None:
    """Sends a head and all of a body but its end, or as much as the edge takes."""
    chunk = b"%x\r\n%s\r\n" % (len(_CHUNK), _CHUNK) if chunked else _CHUNK
    await connection.send(start)
    for _ in range(UNFINISHED // len(_CHUNK)):
        if not await connection.send(chunk):
            return
