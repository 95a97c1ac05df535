"""A line between a client and the edge that a test can cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self


class Line:
    """Passes bytes between its own port and another one of this machine."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._ends: set[asyncio.StreamWriter] = set()
        self.cuts = 0
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator[Self]:
        """Opens a line to ``port``."""
        line = cls(port)
        server = await asyncio.start_server(line._serve, "127.0.0.1")
        line.port = server.sockets[0].getsockname()[1]
        async with server:
            yield line
            line.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Breaks every connection, without a word to either end; new ones pass."""
        self.cuts += 1
        for end in self._ends:
            end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(self._pass(reader, behind_writer), self._pass(behind_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.add(writer)
        try:
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            self._ends.discard(writer)
            writer.close()
