"""Stands for the name under which services find each other in a cluster."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Self


class Balancer:
    """Passes connections on to the replicas of a service that are ready, by turns."""

    def __init__(self) -> None:
        self.ready: Sequence[int] = ()
        """The ports of the replicas."""
        self.port = 0
        self._turn: Final = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls) -> AsyncIterator[Self]:
        balancer = cls()
        server = await asyncio.start_server(balancer._serve, "127.0.0.1", 0)
        balancer.port = server.sockets[0].getsockname()[1]
        try:
            yield balancer
        finally:
            server.close()
            for task in tuple(balancer._tasks):
                task.cancel()
            await asyncio.gather(*balancer._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            port = self.ready[next(self._turn) % len(self.ready)]
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await asyncio.gather(_pump(reader, behind_writer), _pump(behind_reader, writer))
            finally:
                behind_writer.close()
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()
