"""The innermost layer of a method that streams: it sends one message after the other while the caller may and reads.

No transaction surrounds it: a stream waits most of its life and holds no connection meanwhile.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator
from typing import Any, Final, cast

from ameide.common.v1 import watch_pb2
from google.protobuf.message import Message

from api_common.authz import MAX_AGE_SECONDS
from api_common.call import StreamContext
from api_common.contract import MethodPolicy
from api_common.errors import DeadlineExceededError, SlowReaderError
from api_common.rpc.adapter import StreamHandler
from api_common.rpc.call import Admitted, Call, Incoming, Layer, MessageStream
from api_common.rpc.layers.admission import SMALL_BYTES
from api_common.settings import WatchSettings
from api_common.telemetry import Metrics
from api_common.watch import ChangeNotifier

CHECK_SECONDS: Final = MAX_AGE_SECONDS
"""How often a stream checks that its caller still may: as often as stored users are read again."""

DRAIN_SECONDS: Final = 3
"""How long streams may take to end by themselves when the process stops; then they are cancelled."""


class Streams:
    """The streams that are open in this process."""

    def __init__(self, notifier: ChangeNotifier) -> None:
        self.notifier = notifier
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> None:
        """Counts the task that runs the block."""
        self._tasks.add(_task())

    def __exit__(self, *_: object) -> None:
        self._tasks.discard(_task())

    async def end(self) -> None:
        """Tells the streams to end, waits, and cancels those whose readers block them."""
        self.notifier.stop()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=DRAIN_SECONDS)
            for task in late:
                task.cancel()


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # gRPC runs each call in one
    return task


def stream(
    method: MethodPolicy, handler: StreamHandler, *, streams: Streams, settings: WatchSettings, metrics: Metrics
) -> Layer:
    """Sends what ``handler`` yields, and a last message when it ends by itself."""
    name = method.path[1:]

    async def layer(call: Call) -> None:
        outgoing, admitted = call.incoming.stream, call.admitted
        assert outgoing is not None and admitted is not None  # the adapter and admission set them
        context = _context(call.incoming, outgoing, admitted, settings, streams.notifier.stopping)
        messages = cast(AsyncGenerator[Any, None], handler(admitted.request, context))
        with streams:
            async with contextlib.aclosing(messages):
                async for message in messages:
                    # The stream is open: what was dear is done.
                    await context.let_go()
                    await _deliver(outgoing, message, seconds=settings.stall_seconds)
                    metrics.stream_messages.labels(name, message.WhichOneof("event")).inc()
                    # Or each watch would hold its last one until the next (docs/performance.md, "Watches").
                    del message
            if outgoing.resume_token:
                completed = watch_pb2.Completed()
                await outgoing.send(method.response_class(resume_token=outgoing.resume_token, completed=completed))

    return layer


async def _deliver(outgoing: MessageStream, message: Message, *, seconds: float) -> None:
    patience = asyncio.timeout(seconds)
    try:
        async with patience:
            await outgoing.send(message)
    except TimeoutError:
        if patience.expired():
            raise SlowReaderError("Messages were not read in time: resume.", retry_after_seconds=1) from None
        raise


def _context(
    incoming: Incoming, outgoing: MessageStream, admitted: Admitted, settings: WatchSettings, ending: asyncio.Event
) -> StreamContext:
    principal, deadline = admitted.principal, incoming.deadline
    loop = asyncio.get_running_loop()
    # Spread the ends, so that clients do not come back all at once.
    ends_at = loop.time() + settings.max_age_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - nothing secret
    if principal.kind == "service_account":
        # An API key is asked for again once a minute: by the next watch, at the edge.
        ends_at = min(ends_at, loop.time() + principal.expires_at - time.time())
    due = loop.time() + _validity(principal.expires_at)

    async def check() -> float:
        nonlocal due
        # The next page is read when the messages before are paid for (ADR 44).
        if outgoing.unpaid > SMALL_BYTES:
            seconds, outgoing.unpaid = admitted.charge(outgoing.unpaid), 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ending.wait()
        # Read the clock once: two readings could disagree on whether a check is due.
        now = loop.time()
        if now >= deadline:
            raise DeadlineExceededError("The stream has lived as long as its caller wanted, or as any may.")
        if now >= due:
            due = now + _validity((await admitted.check_again()).expires_at)
        return min(due, ends_at, deadline) - now

    return StreamContext(
        principal, incoming.headers.request_id, deadline, incoming.trace, admitted.token, admitted.turn, check=check
    )


def _validity(expires_at: float) -> float:
    return max(0.5, min(CHECK_SECONDS, expires_at - time.time()))
