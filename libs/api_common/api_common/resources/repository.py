"""Stores the rows of one table: the standard methods, written once for every resource, and for parts of resources.

Every statement names the tenant, although row-level security hides other tenants' rows: two walls instead of one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Final

import uuid_utils
from sqlalchemy import BigInteger, Table, and_, bindparam, func, insert, literal_column, or_, select, update

from api_common.db import Row, Statement, Transaction, compile_statement
from api_common.errors import AbortedError, ConflictError, EtagMismatchError, NotFoundError, ResourceInfo
from api_common.listing import Fields, Listing, ListRequest, Order, OrderTerm, Page, PageRequest, PageTokens, Query
from api_common.resources.lifecycle import Lifecycle
from api_common.resources.message_builder import row_etag

_NO_VERSION: Final = 0
_ETAG: Final = re.compile(r'"([0-9]{1,18})"')


class NotDeletedError(ConflictError):
    """The resource is live, so there is nothing to restore."""

    reason = "NOT_DELETED"


class Repository:
    """The live and deleted rows of ``table``, which is a `tables.resource_table`.

    Args:
        resource: the resource's name in messages, e.g. `user`.
        fields: what lists may be filtered and ordered by.
        lifecycle: the verbs that change the state.
    """

    tracked: ClassVar[frozenset[str]] = frozenset()
    """The columns whose writes `on_change` hears of."""

    def __init__(
        self, table: Table, *, resource: str, fields: Fields, lifecycle: Lifecycle, page_tokens: PageTokens
    ) -> None:
        self._table = table
        self._resource = resource
        self._fields = fields
        self._lifecycle = lifecycle
        self._listing = Listing(table, page_tokens=page_tokens)
        columns = table.c
        self._identity = and_(columns.tenant_id == bindparam("tenant_id"), columns.id == bindparam("id"))
        self._get = compile_statement(select(table).where(self._identity))
        self._lock = compile_statement(select(table).where(self._identity).with_for_update())
        self._changes = lru_cache(maxsize=64)(self._compile_change)

    async def get(self, transaction: Transaction, id: str) -> Row:
        """Returns a row, deleted or not.

        Raises:
            NotFoundError: the tenant has no such row.
        """
        row = await transaction.fetch_one(self._get, {"tenant_id": transaction.tenant_id, "id": id})
        if row is None:
            raise self._not_found(id)
        return row

    async def lock(self, transaction: Transaction, id: str, *, etag: str = "") -> Row:
        """Locks a live row until the transaction ends and returns it.

        Raises:
            NotFoundError: the tenant has no such live row.
            EtagMismatchError: ``etag`` is set and not the row's.
        """
        row = await transaction.fetch_one(self._lock, {"tenant_id": transaction.tenant_id, "id": id})
        if row is None or row["delete_time"] is not None:
            raise self._not_found(id)
        self.check_etag(row, etag)
        return row

    async def insert(self, transaction: Transaction, values: Mapping[str, Any], *, created_by: str) -> Row:
        """Stores a new row with an id of its own (UUIDv7) and returns it.

        Raises:
            DomainError: a constraint is broken.
        """
        own = {"tenant_id": transaction.tenant_id, "id": str(uuid_utils.uuid7()), "created_by": created_by, **values}
        row = await transaction.fetch_one(_insertion(self._table, tuple(own)), own)
        assert row is not None  # INSERT … RETURNING
        if self.tracks(values):
            self.on_change(transaction, None, row)
        return row

    async def update(self, transaction: Transaction, id: str, values: Mapping[str, Any], *, etag: str = "") -> Row:
        """Writes ``values`` into a live row and returns it with its next version.

        Raises:
            NotFoundError: the tenant has no such live row.
            EtagMismatchError: ``etag`` is set and not the row's.
            DomainError: a constraint is broken.
        """
        if not values:
            return await self.lock(transaction, id, etag=etag)
        if not self.tracks(values):
            return await self._change(transaction, id, "update", values, etag)
        before = await self.lock(transaction, id, etag=etag)
        after = await self._change(transaction, id, "update", values, etag)
        self.on_change(transaction, before, after)
        return after

    async def move(self, transaction: Transaction, id: str, verb: str, *, etag: str = "") -> Row:
        """Moves a live row to the state that ``verb`` leads to and returns it.

        Raises:
            NotFoundError: the tenant has no such live row.
            EtagMismatchError: ``etag`` is set and not the row's.
            FailedPreconditionError: the verb does not start from the row's state.
        """
        row = await self.lock(transaction, id, etag=etag)
        return await self.update(transaction, id, {"state": self._lifecycle.apply(verb, row["state"])})

    async def delete(self, transaction: Transaction, id: str, *, etag: str = "") -> Row:
        """Hides a live row from lists and returns it.

        Raises:
            NotFoundError: the tenant has no such live row.
            EtagMismatchError: ``etag`` is set and not the row's.
        """
        return await self._change(transaction, id, "delete", {}, etag)

    async def undelete(self, transaction: Transaction, id: str, *, etag: str = "") -> Row:
        """Restores a deleted row and returns it.

        Raises:
            NotFoundError: the tenant has no such row.
            NotDeletedError: the row is live.
            EtagMismatchError: ``etag`` is set and not the row's.
            DomainError: a constraint is broken.
        """
        return await self._change(transaction, id, "undelete", {}, etag)

    def check_etag(self, row: Row, etag: str) -> None:
        """Checks that a row is the version that the caller has read.

        Raises:
            EtagMismatchError: ``etag`` is set and not the row's.
        """
        if etag and etag != row_etag(row):
            raise EtagMismatchError(
                f"The {self._resource} has changed: read it again and send its etag.",
                resource=ResourceInfo(self._resource, row["id"]),
            )

    async def page(self, transaction: Transaction, request: ListRequest, *, method: str) -> Page:
        """Returns one page of rows in a stable order.

        Raises:
            ValidationError: a parameter is malformed, or the page token was issued for another call.
        """
        return await self._listing.page(transaction, request, Query.parse(request, self._fields, method=method))

    def tracks(self, names: Iterable[str]) -> bool:
        """Tells whether one of the columns ``names`` is tracked."""
        return not self.tracked.isdisjoint(names)

    def on_change(self, transaction: Transaction, before: Row | None, after: Row) -> None:
        """Does nothing; a service overrides it to report writes of `tracked` columns in `transaction.effects`.

        Args:
            before: the row with its tracked columns before the write; None for a new row.
        """

    async def _change(self, transaction: Transaction, id: str, kind: str, values: Mapping[str, Any], etag: str) -> Row:
        statement = self._changes(kind, tuple(values))
        parameters = {f"new_{name}": value for name, value in values.items()}
        parameters |= {"tenant_id": transaction.tenant_id, "id": id, "expected": _version(etag)}
        row = await transaction.fetch_one(statement, parameters)
        return row if row is not None else await self._explain(transaction, id, kind, etag)

    async def _explain(self, transaction: Transaction, id: str, kind: str, etag: str) -> Row:
        """Raises the reason why a change found no row; a second round trip, on failure only."""
        row = await self.get(transaction, id)
        deleted = row["delete_time"] is not None
        if kind == "undelete" and not deleted:
            raise NotDeletedError(f"The {self._resource} is not deleted.", resource=ResourceInfo(self._resource, id))
        if kind != "undelete" and deleted:
            raise self._not_found(id)
        self.check_etag(row, etag)
        raise AbortedError(f"Another request changed the {self._resource}; try again.")

    def _not_found(self, id: str) -> NotFoundError:
        return NotFoundError(f"There is no {self._resource} with this id.", resource=ResourceInfo(self._resource, id))

    def _compile_change(self, kind: str, names: tuple[str, ...]) -> Statement:
        columns = self._table.c
        values: dict[str, Any] = {name: bindparam(f"new_{name}", type_=columns[name].type) for name in names}
        values |= {"version": columns.version + literal_column("1"), "update_time": func.now()}
        if kind != "update":
            values["delete_time"] = func.now() if kind == "delete" else None
        expected = bindparam("expected", type_=BigInteger)
        live = columns.delete_time.is_not(None) if kind == "undelete" else columns.delete_time.is_(None)
        return compile_statement(
            update(self._table)
            .where(self._identity, live, or_(expected.is_(None), columns.version == expected))
            .values(values)
            .returning(*columns)
        )


class PartRepository:
    """The rows of ``table`` that belong to one parent each, such as the revisions of a workflow.

    Args:
        parent: the column with the parent's id.
        order: the columns that lists are ordered by, the greatest first; they identify a row of the parent.
    """

    def __init__(self, table: Table, *, parent: str, order: Sequence[str], page_tokens: PageTokens) -> None:
        self._table = table
        self._parent = parent
        self._order = Order(tuple(OrderTerm(name, table.c[name], descending=True) for name in order))
        self._listing = Listing(table, page_tokens=page_tokens)

    async def insert(self, transaction: Transaction, values: Mapping[str, Any]) -> Row:
        """Stores a new row and returns it.

        Raises:
            DomainError: a constraint is broken.
        """
        own = {"tenant_id": transaction.tenant_id, **values}
        row = await transaction.fetch_one(_insertion(self._table, tuple(own)), own)
        assert row is not None  # INSERT … RETURNING
        return row

    async def page(self, transaction: Transaction, parent_id: str, request: PageRequest, *, method: str) -> Page:
        """Returns one page of the rows of a parent, newest first.

        Raises:
            ValidationError: a parameter is malformed, or the page token was issued for another call.
        """
        query = Query(method=method, order=self._order, parent={self._parent: parent_id})
        return await self._listing.page(transaction, request, query)


@lru_cache(maxsize=64)
def _insertion(table: Table, names: tuple[str, ...]) -> Statement:
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    return compile_statement(insert(table).values(values).returning(*table.c))


def _version(etag: str) -> int | None:
    """Returns the version in an etag: None for no etag, a version that no row has for a malformed one."""
    if not etag:
        return None
    match = _ETAG.fullmatch(etag)
    return int(match[1]) if match else _NO_VERSION
