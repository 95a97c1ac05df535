"""Watches: a stream of what happens to the resources of one table, from wherever the client was (ADR 25)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Generic, Protocol

from ameide.common.v1 import watch_pb2
from google.protobuf.message import Message
from sqlalchemy import Table

from api_common.call import StreamContext
from api_common.db import Database, Row, Transaction
from api_common.errors import ExternalServiceError
from api_common.listing import Fields, PageTokens, binding, parse_filter
from api_common.settings import WatchSettings
from api_common.telemetry import Metrics
from api_common.watch.change_notifier import ChangeNotifier
from api_common.watch.pages import ChangePages, ResponseT, Source, current, reading
from api_common.watch.resume_token import NOWHERE, Phase, Position, seal, unseal

Reading = Callable[[Transaction], Awaitable[object]]
"""Reads something, in a transaction of its own."""


class WatchRequest(Protocol):
    """The parameters that every Watch method has."""

    filter: str
    """AIP-160; empty for all resources."""
    resume_token: str
    """Of a message of an earlier watch; empty for a new one."""
    initial_state: bool
    """Whether a new watch begins with what there is."""


class Watch(Generic[ResponseT]):
    """The Watch method of one collection.

    Args:
        table: one whose changes are recorded.
        fields: what the filter may name.
        to_proto: returns the resource of a row.
        response: the method's response.
    """

    def __init__(
        self,
        table: Table,
        *,
        fields: Fields,
        to_proto: Callable[[Row], Message],
        response: type[ResponseT],
        notifier: ChangeNotifier,
        database: Database,
        page_tokens: PageTokens,
        metrics: Metrics,
        settings: WatchSettings,
    ) -> None:
        self._table = table
        self._fields = fields
        self._response = response
        self._notifier = notifier
        self._database = database
        self._page_tokens = page_tokens
        self._settings = settings

        def message(event: str, row: Row, token: str) -> ResponseT:
            return response(resume_token=token, **{event: to_proto(row)})

        self._pages = ChangePages(table, database=database, page_tokens=page_tokens, metrics=metrics, message=message)

    async def follow(
        self, request: WatchRequest, ctx: StreamContext, *, within: str = "", parent: Reading | None = None
    ) -> AsyncIterator[ResponseT]:
        """Yields what the method sends until the stream has lived long enough.

        Args:
            within: what must be true beside the request's filter, in its grammar.
            parent: reads what the collection belongs to, or raises that it does not exist.

        Raises:
            ValidationError: the filter is malformed, or the resume token was issued for another watch.
            OutOfRangeError: changes that the resume token asks for are not kept any longer.
            DomainError: the caller may not watch any longer, or the service stops.
        """
        source = self._source(request, ctx.tenant_id, within)
        if parent is not None:
            async with reading(self._database, ctx.tenant_id) as transaction:
                await parent(transaction)
        position = await self._begin(request, source)
        is_current = False
        loop = asyncio.get_running_loop()
        with self._notifier.follow(ctx.tenant_id, self._table.name) as topic:
            while await self._patience(ctx):
                generation, look = topic.generation, self._notifier.looks
                page = await self._pages.read(source, position, generation=generation)
                for message in page.messages:
                    yield message
                position = page.end
                if not page.is_last:
                    continue
                if not is_current:
                    is_current = True
                    yield self._say(source, position, bookmark=watch_pb2.Bookmark())
                heartbeat = self._settings.heartbeat_seconds
                due = loop.time() + heartbeat
                while topic.generation == generation and (patience := await self._patience(ctx)):
                    await topic.wait(generation, timeout_seconds=min(patience, due - loop.time()))
                    if topic.generation == generation and loop.time() >= due:
                        due = loop.time() + heartbeat
                        # Nothing was announced since that look, so this watch has seen all that it saw.
                        quiet = self._notifier.quiet_since(look)
                        position = replace(position, seen=quiet) if quiet else position
                        yield self._say(source, position, heartbeat=watch_pb2.Heartbeat())

    async def _patience(self, ctx: StreamContext) -> float:
        """Returns for how many seconds the stream may go on as it is; 0 if it has lived long enough."""
        if self._notifier.is_stopping:
            raise ExternalServiceError("The service stops: resume elsewhere.", retry_after_seconds=0)
        return max(0.0, await ctx.check())

    def _source(self, request: WatchRequest, tenant_id: str, within: str) -> Source:
        where = parse_filter(request.filter, self._fields)
        if within:
            # After the request's own was understood: it cannot reach beyond its brackets.
            where = parse_filter(f"({request.filter}) AND {within}" if where.shape else within, self._fields)
        own = repr(where.shape), repr(dict(where.values))
        return Source(tenant_id, binding(tenant_id, self._response.DESCRIPTOR.full_name, *own), where)

    async def _begin(self, request: WatchRequest, source: Source) -> Position:
        if request.resume_token:
            return unseal(request.resume_token, self._page_tokens, binding=source.binding)
        if request.initial_state:
            return Position(Phase.STATE, NOWHERE, NOWHERE)
        return await current(self._database, source.tenant_id)

    def _say(self, source: Source, position: Position, **event: Message) -> ResponseT:
        token = seal(position, self._page_tokens, binding=source.binding)
        return self._response(resume_token=token, **event)
