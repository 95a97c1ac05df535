"""Watches: streams of changes to the resources of one table, resumable from any point (ADR 25)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol

from ameide.common.v1 import watch_pb2
from google.protobuf.message import Message
from sqlalchemy import Table, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from api_common.call import StreamContext
from api_common.db import Database, Row, Transaction, compile_statement
from api_common.errors import ExternalServiceError
from api_common.listing import Fields, PageTokens, binding, parse_filter
from api_common.settings import WatchSettings
from api_common.telemetry import Metrics
from api_common.watch.change_notifier import ChangeNotifier
from api_common.watch.pages import ChangePages, ResponseT, Source, current, reading
from api_common.watch.resume_token import NOWHERE, Phase, Position, unseal

_FOLD: Final = compile_statement(select(func.lower(func.unnest(bindparam("texts", type_=ARRAY(Text)))).label("folded")))

Reading = Callable[[Transaction], Awaitable[object]]
"""Reads in a transaction of its own."""


class WatchRequest(Protocol):
    """The parameters that every Watch method has."""

    filter: str
    """AIP-160; empty for all resources."""
    resume_token: str
    """The token of a message of an earlier watch; empty for a new watch."""
    initial_state: bool
    """Whether a new watch begins with all existing resources."""


@dataclass(frozen=True, slots=True)
class WatchFactory:
    """Builds watches from what all watches of a process share."""

    notifier: ChangeNotifier
    database: Database
    page_tokens: PageTokens
    metrics: Metrics
    settings: WatchSettings

    def of(
        self, table: Table, *, fields: Fields, to_proto: Callable[[Row], Message], response: type[ResponseT]
    ) -> "Watch[ResponseT]":
        """Returns the watch of one collection.

        Args:
            table: a table with the trigger that records changes.
            fields: the fields that the filter may name.
            to_proto: converts a row to its resource.
            response: the method's response message.
        """
        tokens, metrics = self.page_tokens, self.metrics
        pages = ChangePages(
            table, fields, to_proto, response, database=self.database, page_tokens=tokens, metrics=metrics
        )
        return Watch(self, pages, collection=table.name, fields=fields, method=response.DESCRIPTOR.full_name)


class Watch(Generic[ResponseT]):
    """The Watch method of one collection; `WatchFactory.of` builds it."""

    def __init__(
        self, shared: WatchFactory, pages: ChangePages[ResponseT], *, collection: str, fields: Fields, method: str
    ) -> None:
        self._shared = shared
        self._pages = pages
        self._collection = collection
        self._fields = fields
        self._method = method

    async def follow(
        self, request: WatchRequest, ctx: StreamContext, *, within: str = "", parent: Reading | None = None
    ) -> AsyncIterator[ResponseT]:
        """Yields the messages of the stream until its time is over.

        Args:
            within: a filter that applies in addition to the request's.
            parent: reads the parent resource, or raises NotFoundError.

        Raises:
            ValidationError: the filter is malformed, or the resume token was issued for another watch.
            OutOfRangeError: changes after the resume token were deleted.
            DomainError: the caller lost the permission, or the service stops.
        """
        # A new watch without state begins at the snapshot of now.
        after = self._pages.reads if request.resume_token or request.initial_state else 0
        source = await self._source(request, ctx.tenant_id, within)
        if parent is not None:
            async with reading(self._shared.database, ctx.tenant_id) as transaction:
                await parent(transaction)
        position = await self._begin(request, source)
        begins, is_current, since = True, False, ""
        loop = asyncio.get_running_loop()
        with self._shared.notifier.follow(ctx.tenant_id, self._collection) as topic:
            while await self._seconds_left(ctx):
                poll = self._shared.notifier.polls
                generation = topic.generation
                page = await self._pages.read(
                    source, position, generation=generation, begins=begins, since=since, after=after
                )
                for message in page.messages:
                    yield message
                position, begins = page.end, False
                # It holds to the end of the window.
                since = since if position.upto else ""
                if not page.is_last:
                    continue
                if not is_current:
                    is_current, after = True, 0
                    yield self._pages.message(source, position, bookmark=watch_pb2.Bookmark())
                due = loop.time() + self._shared.settings.heartbeat_seconds
                while topic.generation == page.generation and (seconds := await self._seconds_left(ctx)):
                    await topic.wait(page.generation, timeout_seconds=min(seconds, due - loop.time()))
                    if topic.generation == page.generation and loop.time() >= due:
                        due = loop.time() + self._shared.settings.heartbeat_seconds
                        # Polls since then announced nothing, so this watch has seen everything up to the last of them.
                        quiet = self._shared.notifier.quiet_since(poll)
                        position = replace(position, seen=quiet) if quiet else position
                        yield self._pages.message(source, position, heartbeat=watch_pb2.Heartbeat())
                since = topic.since(page.generation)
                # However pages come, everybody else is served in between.
                await asyncio.sleep(0)

    async def _seconds_left(self, ctx: StreamContext) -> float:
        """Returns how long the stream may go on until the next check; 0 if its time is over."""
        seconds = max(0.0, await ctx.check())
        if self._shared.notifier.stopping.is_set():
            raise ExternalServiceError("The service stops: resume elsewhere.", retry_after_seconds=0)
        return seconds

    async def _source(self, request: WatchRequest, tenant_id: str, within: str) -> Source:
        where = parse_filter(request.filter, self._fields)
        if within:
            # The request's filter was parsed before, so it cannot end these brackets.
            where = parse_filter(f"({request.filter}) AND {within}" if where.shape else within, self._fields)
        own = repr(where.shape), repr(dict(where.values))
        folded: dict[str, str] = {}
        if folding := where.folding:
            async with reading(self._shared.database, tenant_id) as transaction:
                rows = await transaction.fetch_all(_FOLD, {"texts": [where.values[name] for name in folding]})
            folded = {name: row["folded"] for name, row in zip(folding, rows, strict=True)}
        return Source(tenant_id, binding(tenant_id, self._method, *own), where, where.matcher(folded))

    async def _begin(self, request: WatchRequest, source: Source) -> Position:
        if request.resume_token:
            return unseal(request.resume_token, self._shared.page_tokens, binding=source.binding)
        if request.initial_state:
            return Position(Phase.STATE, NOWHERE, NOWHERE)
        return await current(self._shared.database, source.tenant_id)
