"""Reads watches: what comes next, in time, and what they end with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
from api_common.testing import Caller

PATIENCE_SECONDS: Final = 10
"""How long a test waits for a message that must come."""


class Watching:
    """A watch that is being read."""

    def __init__(self, call: Any) -> None:
        self.call: Final = call

    async def next(self) -> Any:
        """Returns the next message.

        Raises:
            AioRpcError: the watch has ended with an error.
        """
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.call.read()

    async def until(self, event: str) -> list[Any]:
        """Returns the messages up to the first ``event``, with it."""
        messages = [await self.next()]
        while messages[-1].WhichOneof("event") != event:
            messages.append(await self.next())
        return messages

    async def change(self) -> tuple[str, Any]:
        """Returns what happens next and to what, whatever is said in between."""
        while True:
            message = await self.next()
            event = message.WhichOneof("event")
            if event in ("created", "updated", "deleted"):
                return event, getattr(message, event)

    async def end(self) -> grpc.StatusCode:
        """Returns the status that follows the last message."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            code: grpc.StatusCode = await self.call.code()
            return code


@asynccontextmanager
async def watching(method: Any, request: Any, caller: Caller | None) -> AsyncIterator[Watching]:
    """Begins a watch, and ends it with the block."""
    call = method(request, metadata=caller.metadata if caller else ())
    try:
        yield Watching(call)
    finally:
        call.cancel()
