"""Reads the pages of a watch. Watches at the same position share one page and its messages."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from cachetools import FIFOCache
from google.protobuf.message import Message
from sqlalchemy import Table

from api_common.db import Database, Row, Statement, Transaction, compile_statement, repeat_if_stale
from api_common.listing import Filter, PageTokens
from api_common.telemetry import Metrics
from api_common.watch import statements
from api_common.watch.resume_token import NOWHERE, Phase, Position, seal, xmin
from api_common.watch.statements import EVENT, PAGE_SIZE, SEQ, change_page, state_page

READ_SECONDS: Final = 30
"""The time-out of reading one page; a watch has no deadline of a caller."""

_MAX_SHAPES: Final = 256
_SHARED: Final = 32
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


@dataclass(frozen=True, slots=True)
class ChangePage(Generic[ResponseT]):
    """A part of the stream of a watch."""

    messages: Sequence[ResponseT]
    """In order; each with its resume token."""
    end: Position
    """The position after the page."""
    is_last: bool
    """Whether there was nothing more when the page was read."""


class ChangePages(Generic[ResponseT]):
    """The pages of one watched table."""

    def __init__(
        self,
        table: Table,
        to_proto: Callable[[Row], Message],
        response: type[ResponseT],
        *,
        database: Database,
        page_tokens: PageTokens,
        metrics: Metrics,
    ) -> None:
        self._table = table
        self._to_proto = to_proto
        self._response = response
        self._database = database
        self._page_tokens = page_tokens
        self._metrics = metrics
        self._statements: FIFOCache[object, Statement] = FIFOCache(_MAX_SHAPES)
        self._shared: FIFOCache[object, asyncio.Task[ChangePage[ResponseT]]] = FIFOCache(_SHARED)

    async def read(self, source: Source, position: Position, *, generation: int) -> ChangePage[ResponseT]:
        """Returns the page after ``position``.

        Args:
            generation: of the source's topic; only reads of the same generation share a page.

        Raises:
            OutOfRangeError: changes after the position were deleted.
            DomainError: the database does not answer.
        """
        key = (source.binding, position, generation)
        reading = self._shared.get(key)
        if reading is None:
            reading = self._shared[key] = asyncio.create_task(self._read(source, position))
            # The error reaches those who await the page; if none is left, it is not needed.
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            # A watch that is cancelled does not cancel the read of the others.
            return await asyncio.shield(reading)
        except Exception:
            self._shared.pop(key, None)
            raise

    def message(self, source: Source, position: Position, **event: Message) -> ResponseT:
        """Returns the message of an event, with the resume token of ``position``."""
        token = seal(position, self._page_tokens, binding=source.binding)
        return self._response(resume_token=token, **event)

    async def _read(self, source: Source, position: Position) -> ChangePage[ResponseT]:
        rows = await repeat_if_stale(partial(self._rows, source, position))
        header = rows[0]
        database, snapshot = header["page_database"], header["page_snapshot"]
        # A new watch cannot have missed a change.
        if position.seen:
            lost = {"deleted_seq": header["horizon_seq"] or 0, "deleted_xid": header["horizon_xid"] or 0}
            position.check(database, **lost)
        else:
            position = replace(position, database=database, seen=snapshot)
        found, held = header["page_found"] or 0, header["page_held"]
        is_last = found < PAGE_SIZE and found == held
        messages = []
        for row in rows:
            if row[EVENT] is not None:
                after = self._after(position, snapshot, row[SEQ], row["id"])
                messages.append(self.message(source, after, **{row[EVENT]: self._to_proto(row)}))
        if not is_last:
            end = self._after(position, snapshot, header["page_last"], rows[-1]["id"])
            return ChangePage(messages, end, is_last=False)
        if position.phase is Phase.STATE:
            return ChangePage(messages, replace(position, phase=Phase.SETTLING, id=NOWHERE), is_last=False)
        if messages and not position.upto:
            self._metrics.change_age.observe(float(header["page_age_seconds"]))
        # The window ends at the snapshot of its first page, so a later page finds nothing new in it.
        end = Position(Phase.LIVE, database, position.upto or snapshot)
        return ChangePage(messages, end, is_last=not position.upto)

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
        async with reading(self._database, source.tenant_id) as transaction:
            return await transaction.fetch_all(self._statement(source.where, position), values)

    def _statement(self, where: Filter, position: Position) -> Statement:
        shape = (where.shape, position.phase, bool(position.upto))
        statement = self._statements.get(shape)
        if statement is None:
            if position.phase is Phase.STATE:
                clause = state_page(self._table, where)
            else:
                clause = change_page(self._table, where, phase=position.phase, goes_on=bool(position.upto))
            statement = self._statements[shape] = compile_statement(clause, plan_for_values=True)
        return statement


def reading(database: Database, tenant_id: str) -> Transaction:
    """Returns a read-only transaction without the deadline of a caller."""
    return Transaction(database, tenant_id, read_only=True, timeout_seconds=READ_SECONDS)


async def current(database: Database, tenant_id: str) -> Position:
    """Returns the position of a new watch that skips the existing resources."""
    async with reading(database, tenant_id) as transaction:
        row = await transaction.fetch_one(statements.NOW, {})
    assert row is not None  # SELECT without FROM
    return Position(Phase.LIVE, row["page_database"], row["page_snapshot"])
