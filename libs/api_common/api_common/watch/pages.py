"""Reads the pages of a watch. Each change of a collection is read once, whatever its watches look for."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

from cachetools import FIFOCache, LRUCache
from google.protobuf.message import Message
from sqlalchemy import Table

from api_common.db import Database, Row, Statement, Transaction, compile_statement, repeat_if_stale
from api_common.errors import ExternalServiceError
from api_common.listing import Fields, Filter, PageTokens
from api_common.telemetry import Metrics
from api_common.watch import statements
from api_common.watch.resume_token import NOWHERE, Phase, Position, is_later, seal, sees, xmin
from api_common.watch.statements import EVENT, NOW, PAGE_SIZE, SEQ, WAS, XID, change_page, operands_of, state_page

READ_SECONDS: Final = 30
"""The time-out of reading one page; a watch has no deadline of a caller."""

KEPT_BYTES: Final = 4 * 1024 * 1024
"""The most bytes of rows of pages that are kept for other watches of a collection."""

_MAX_SHAPES: Final = 256
_SAME_MESSAGES: Final = 8
_PAGE_COST_BYTES: Final = 16 * 1024
_CHANGES_AT_ONCE: Final = 10
_FIRST_ID: Final = "00000000-0000-0000-0000-000000000000"

ResponseT = TypeVar("ResponseT", bound=Message)


class Source(NamedTuple):
    """The tenant and filter of a watch; watches of equal sources see the same."""

    tenant_id: str
    """The tenant."""
    binding: str
    """The digest of tenant, method and filter that resume tokens are bound to."""
    where: Filter
    """The filter."""
    matches: Callable[[Mapping[str, Any]], bool]
    """Tells of the operands of a row whether the filter holds."""


@dataclass(frozen=True, slots=True)
class ChangePage(Generic[ResponseT]):
    """A part of the stream of a watch."""

    messages: Sequence[ResponseT]
    """In order; each with its resume token."""
    end: Position
    """The position after the page."""
    is_last: bool
    """Whether there was nothing more when the page was read."""
    generation: int
    """The generation of the topic in which it was read."""


@dataclass(slots=True)
class _Change:
    """A change and the resource after it."""

    row: Row
    was: Mapping[str, Any]
    now: Mapping[str, Any]
    resource: Message | None = None
    """Made when the first watch needs it."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What one statement read."""

    header: Row
    changes: Sequence[_Change]
    generation: int
    number: int
    """Of the read, in the order in which they began."""
    messages: FIFOCache[object, Sequence[Any]] = field(default_factory=lambda: FIFOCache(_SAME_MESSAGES))
    """Messages of the page, by what makes them equal: source and position."""

    @property
    def is_last(self) -> bool:
        """Whether there was nothing more."""
        found = self.header["page_found"] or 0
        return bool(found < PAGE_SIZE and found == self.header["page_held"])

    def is_older(self, after: int) -> bool:
        """Whether it was the last page before a watch began, and may not be any more."""
        return self.is_last and self.number <= after

    @property
    def cost(self) -> int:
        """The bytes that count for keeping the page."""
        return _PAGE_COST_BYTES + int(self.header["page_bytes"] or 0)


class ChangePages(Generic[ResponseT]):
    """The pages of one watched table."""

    def __init__(
        self,
        table: Table,
        fields: Fields,
        to_proto: Callable[[Row], Message],
        response: type[ResponseT],
        *,
        database: Database,
        page_tokens: PageTokens,
        metrics: Metrics,
    ) -> None:
        self._table = table
        self._fields = fields
        self._operands = tuple(fields.operands)
        self._to_proto = to_proto
        self._response = response
        self._database = database
        self._page_tokens = page_tokens
        self._metrics = metrics
        self._statements: FIFOCache[object, Statement] = FIFOCache(_MAX_SHAPES)
        self._kept: LRUCache[object, _Rows] = LRUCache(KEPT_BYTES, getsizeof=lambda rows: rows.cost)
        self._readings: dict[object, asyncio.Task[_Rows]] = {}
        self._turn = asyncio.Lock()
        self.reads = 0
        """How many reads have begun."""

    async def read(
        self, source: Source, position: Position, *, generation: int, begins: bool, since: str, after: int = 0
    ) -> ChangePage[ResponseT]:
        """Returns the page after ``position``.

        Args:
            generation: of the source's topic, now.
            begins: whether this is the watch's first page, which must know of all changes that were deleted.
            since: empty, or an earlier snapshot that many watches read from; what the position has seen is left out.
            after: how many reads had begun before the watch did, until it has caught up: the last page must be of a
                later one, and so hold what was committed before.

        Raises:
            OutOfRangeError: changes after the position were deleted.
            DomainError: the database does not answer.
        """
        base = replace(position, seen=since) if since else position
        # Only what exists is filtered by the database.
        key = (source.binding if position.phase is Phase.STATE else source.tenant_id, base)
        rows = self._kept.get(key)
        # A page of an earlier generation is good for going on, unless the watch has read so far already.
        goes_on = rows is not None and not begins and is_later(rows.header["page_snapshot"], position.seen)
        read = partial(self._read_once, key, partial(self._read, source, base, generation))
        if rows is None or not (goes_on or rows.generation == generation) or rows.is_older(after):
            rows = await read()
            if rows.is_older(after):
                # It had begun before.
                rows = await read()
        return await self._page(source, position, rows)

    def message(self, source: Source, position: Position, **event: Message) -> ResponseT:
        """Returns the message of an event, with the resume token of ``position``."""
        token = seal(position, self._page_tokens, binding=source.binding)
        return self._response(resume_token=token, **event)

    async def _read_once(self, key: object, read: Callable[[], Awaitable[_Rows]]) -> _Rows:
        reading = self._readings.get(key)
        if reading is None:
            reading = self._readings[key] = asyncio.ensure_future(self._keep(key, read))
            # The error reaches those who await the page; if none is left, it is not needed.
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A watch that is cancelled does not cancel the read of the others.
        return await asyncio.shield(reading)

    async def _keep(self, key: object, read: Callable[[], Awaitable[_Rows]]) -> _Rows:
        try:
            rows = await read()
        finally:
            # By the task itself: nobody may find one that is done, which could be awaited for ever without a pause.
            del self._readings[key]
        if rows.cost <= KEPT_BYTES:
            self._kept[key] = rows
        return rows

    async def _read(self, source: Source, position: Position, generation: int) -> _Rows:
        self.reads += 1
        number = self.reads
        rows = await repeat_if_stale(partial(self._rows, source, position))
        header = rows[0]
        changes = [row for row in rows if row[EVENT] is not None]
        if position.phase is Phase.STATE:
            return _Rows(header, [_Change(row, {}, {}) for row in changes], generation, number)
        if changes and not position.upto:
            self._metrics.change_age.observe(float(header["page_age_seconds"]))
        sides = partial(operands_of, names=self._operands)
        return _Rows(header, [_Change(row, sides(row, WAS), sides(row, NOW)) for row in changes], generation, number)

    async def _page(self, source: Source, position: Position, rows: _Rows) -> ChangePage[ResponseT]:
        header, generation = rows.header, rows.generation
        database, snapshot = header["page_database"], header["page_snapshot"]
        # A new watch cannot have missed a change.
        if position.seen:
            lost = {"deleted_seq": header["horizon_seq"] or 0, "deleted_xid": header["horizon_xid"] or 0}
            position.check(database, **lost)
        else:
            position = replace(position, database=database, seen=snapshot)
        if is_later(position.seen, snapshot):
            # Another watch has read the page meanwhile. What it lacks was sent.
            snapshot = position.seen
        messages = await self._messages(source, position, rows, snapshot)
        if not rows.is_last:
            last = rows.changes[-1].row["id"] if rows.changes else position.id
            end = self._after(position, snapshot, header["page_last"], last)
            return ChangePage(messages, end, is_last=False, generation=generation)
        if position.phase is Phase.STATE:
            end = replace(position, phase=Phase.SETTLING, id=NOWHERE)
            return ChangePage(messages, end, is_last=False, generation=generation)
        # The window ends at the snapshot of its first page, so a later page finds nothing new in it.
        end = Position(Phase.LIVE, database, position.upto or snapshot)
        return ChangePage(messages, end, is_last=not position.upto, generation=generation)

    async def _messages(self, source: Source, position: Position, rows: _Rows, snapshot: str) -> Sequence[ResponseT]:
        """Chooses what a watch is told, one watch after the other: between two the event loop serves everybody else."""
        if not rows.changes:
            return ()
        key = (source.binding, position)
        async with self._turn:
            if key in rows.messages:
                return rows.messages[key]
            messages: list[ResponseT] = []
            for number, change in enumerate(rows.changes):
                if number % _CHANGES_AT_ONCE == 0:
                    await asyncio.sleep(0)
                if event := self._event(source, position, change):
                    if change.resource is None:
                        change.resource = self._to_proto(change.row)
                    after = self._after(position, snapshot, change.row[SEQ], change.row["id"])
                    messages.append(self.message(source, after, **{event: change.resource}))
            rows.messages[key] = messages
            return messages

    @staticmethod
    def _event(source: Source, position: Position, change: _Change) -> str:
        """Returns what a change is to a watch; empty for nothing."""
        kind = change.row[EVENT]
        if position.phase is Phase.STATE:
            return str(kind)
        if sees(position.seen, change.row[XID]):
            return ""
        now = kind != "deleted" and source.matches(change.now)
        if position.phase is Phase.SETTLING:
            # The client may or may not know the row: a row that is gone counts as deleted, any other as created.
            return "created" if now else "deleted"
        was = kind != "created" and source.matches(change.was)
        if now:
            return "updated" if was else "created"
        return "deleted" if was else ""

    @staticmethod
    def _after(position: Position, snapshot: str, seq: int | None, id_: str) -> Position:
        """Returns the position after one row of a page."""
        if position.phase is Phase.STATE:
            return replace(position, id=id_)
        return replace(position, upto=position.upto or snapshot, seq=seq or 0)

    async def _rows(self, source: Source, position: Position) -> Sequence[Row]:
        values = {
            **source.where.values,
            "tenant_id": source.tenant_id,
            "seen": position.seen,
            "xmin": xmin(position.seen) if position.seen else 0,
            "upto": position.upto,
            "seq": position.seq,
            "id": position.id or _FIRST_ID,
        }
        try:
            async with asyncio.timeout(READ_SECONDS), reading(self._database, source.tenant_id) as transaction:
                return await transaction.fetch_all(self._statement(source.where, position), values)
        except TimeoutError as error:
            raise ExternalServiceError("The database does not answer.", retry_after_seconds=1) from error

    def _statement(self, where: Filter, position: Position) -> Statement:
        is_state = position.phase is Phase.STATE
        shape = (where.shape if is_state else (), position.phase, bool(position.upto))
        statement = self._statements.get(shape)
        if statement is None:
            if is_state:
                clause = state_page(self._table, where)
            else:
                clause = change_page(self._table, self._fields, phase=position.phase, goes_on=bool(position.upto))
            statement = self._statements[shape] = compile_statement(clause, plan_for_values=True)
        return statement


def reading(database: Database, tenant_id: str) -> Transaction:
    """Returns a read-only transaction without the deadline of a caller."""
    return Transaction(database, tenant_id, read_only=True, timeout_seconds=READ_SECONDS)


async def current(database: Database, tenant_id: str) -> Position:
    """Returns the position of a new watch that skips the existing resources."""
    async with reading(database, tenant_id) as transaction:
        row = await transaction.fetch_one(statements.CURRENT, {})
    assert row is not None  # SELECT without FROM
    return Position(Phase.LIVE, row["page_database"], row["page_snapshot"])
