"""Lists the rows of one table page by page, in a stable order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol, Self

from cachetools import FIFOCache
from sqlalchemy import ColumnElement, Integer, Select, Table, bindparam, literal_column, select

from api_common.db import Row, Statement, Transaction, compile_statement, fitting
from api_common.listing.filterable_fields import Fields
from api_common.listing.filtering import Filter, Order, parse_filter, parse_order_by
from api_common.listing.pagination import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    PageTokens,
    binding,
    clamp_page_size,
    keyset_clause,
)

MAX_PAGE_BYTES: Final = 800_000
"""A page ends before its rows, as texts, exceed this. gRPC clients accept messages of 4 MiB by default, and a list of
numbers takes 2.2 times the bytes of its text."""

_PLANNED_ROWS: Final = (DEFAULT_PAGE_SIZE + 1, MAX_PAGE_SIZE + 1)
"""The limits that Postgres plans a page with; the smallest that holds the page is used. A limit that is a parameter is
planned as a tenth of the table (ADR 20)."""

_MAX_SHAPES: Final = 256


class PageRequest(Protocol):
    """The parameters of every paged method."""

    page_size: int
    """How many rows the caller wants at most; 0 means the default."""
    page_token: str
    """Empty for the first page."""


class ListRequest(PageRequest, Protocol):
    """The parameters of every List method of a resource."""

    filter: str
    """AIP-160; empty for all rows."""
    order_by: str
    """AIP-132; empty for the default."""
    show_deleted: bool
    """Whether deleted rows are listed, too."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list."""

    rows: Sequence[Row]
    """May be fewer than the request asks for, on any page."""
    next_page_token: str
    """Empty on the last page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The rows of a list and their order; a page token is valid for pages of the same query only."""

    method: str
    """The RPC."""
    order: Order
    where: Filter | None = None
    parent: Mapping[str, str] = field(default_factory=dict)
    """The parent of the rows, by column, e.g. `workflow_id`."""
    show_deleted: bool = True
    """False needs a table with `delete_time`."""

    @classmethod
    def parse(cls, request: ListRequest, fields: Fields, *, method: str) -> Self:
        """Returns the query of a List request.

        Raises:
            ValidationError: the filter or the order is malformed or does not fit ``fields``.
        """
        return cls(
            method=method,
            where=parse_filter(request.filter, fields),
            order=parse_order_by(request.order_by, fields),
            show_deleted=request.show_deleted,
        )

    @property
    def shape(self) -> tuple[object, ...]:
        """Equal for queries that differ in values only: the key for compiled SQL."""
        filtered = self.where.shape if self.where else ()
        return filtered, self.order.shape, tuple(self.parent), self.show_deleted

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of the SQL, but for tenant, cursor and size."""
        return {**self.parent, **(self.where.values if self.where else {})}


class Listing:
    """Reads one tenant's rows of ``table`` in pages."""

    def __init__(self, table: Table, *, page_tokens: PageTokens) -> None:
        self._table = table
        self._page_tokens = page_tokens
        self._statements: FIFOCache[object, Statement] = FIFOCache(_MAX_SHAPES)

    async def page(self, transaction: Transaction, request: PageRequest, query: Query) -> Page:
        """Returns the requested page.

        Raises:
            ValidationError: the page size is malformed, or the page token was issued for another query.
        """
        own = query.values
        bound = binding(transaction.tenant_id, query.method, repr(query.shape), repr(own))
        cursor = self._page_tokens.open(request.page_token, binding=bound) if request.page_token else []
        size = clamp_page_size(request.page_size)
        values = {**own, "tenant_id": transaction.tenant_id, "size": size + 1}
        values |= {f"cursor_{index}": value for index, value in enumerate(cursor)}
        most = next(rows for rows in _PLANNED_ROWS if rows > size)
        rows = await transaction.fetch_all(self._statement(query, follows=bool(cursor), most=most), values)
        shown = rows[:size]
        if not shown or len(shown) == shown[-1]["found"]:
            return Page(shown, "")
        position = [shown[-1][term.column.name] for term in query.order.terms]
        return Page(shown, self._page_tokens.seal(position, binding=bound))

    def _statement(self, query: Query, *, follows: bool, most: int) -> Statement:
        shape = (query.shape, follows, most)
        statement = self._statements.get(shape)
        if statement is None:
            found = self._select(query, follows=follows, most=most)
            statement = self._statements[shape] = compile_statement(
                self._fit(found, query.order), plan_for_values=bool(query.where and query.where.shape)
            )
        return statement

    def _select(self, query: Query, *, follows: bool, most: int) -> Select[Any]:
        columns = self._table.c
        owner = ("tenant_id", *query.parent)
        clauses: list[ColumnElement[bool]] = [
            columns[name] == bindparam(name, type_=columns[name].type) for name in owner
        ]
        if not query.show_deleted:
            clauses.append(columns.delete_time.is_(None))
        filtered = query.where.clause if query.where else None
        if filtered is not None:
            clauses.append(filtered)
        if follows:
            clauses.append(keyset_clause(query.order.terms))
        by = _by(query.order, columns)
        planned = select(self._table).where(*clauses).order_by(*by).limit(literal_column(str(most))).subquery("planned")
        size = bindparam("size", type_=Integer)
        return select(planned).order_by(*_by(query.order, planned.c)).limit(size)

    def _fit(self, found: Select[Any], order: Order) -> Select[Any]:
        """Keeps the rows that fit into a page, at least one, each with the number of rows that were found."""
        fits = fitting(found.subquery("page"), partial(_by, order), MAX_PAGE_BYTES).subquery("fits")
        return select(*(fits.c[one.name] for one in self._table.c), fits.c.found).order_by(*_by(order, fits.c))


def _by(order: Order, columns: Any) -> list[ColumnElement[Any]]:
    """Returns ``order`` over columns of the same names."""
    by = [(columns[term.column.name], term.descending) for term in order.terms]
    return [column.desc() if descending else column.asc() for column, descending in by]
