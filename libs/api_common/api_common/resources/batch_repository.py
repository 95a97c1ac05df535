"""Stores many resources of one table at once: each step is one statement, however many items there are (ADR 0018).

A batch locks its rows in the order of their ids, and waits for other batches of the tenant before it writes unique
values, so that two batches never wait for each other. An error of an item names the item.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import uuid_utils

from api_common import errors
from api_common.db import Row, Transaction
from api_common.resources.batch_statements import MAX_ROWS_BYTES, POSITION, TAKE_TURN, WRITTEN, BatchStatements, named
from api_common.resources.batches import Change, batch_item, refuse_twice
from api_common.resources.repository import Repository


class BatchRepository(Repository):
    """A repository that reads and writes many rows at a time: all of them or none."""

    @cached_property
    def _batches(self) -> BatchStatements:
        return BatchStatements(self._table)

    async def get_many(self, transaction: Transaction, ids: Sequence[str]) -> list[Row]:
        """Returns the rows in the order of ``ids``, deleted or not.

        Raises:
            ValidationError: an id is there twice.
            NotFoundError: the tenant has not all of them.
            PayloadTooLargeError: they are too large together.
        """
        refuse_twice(ids, "ids[{}]")
        values = named(transaction.tenant_id, ids)
        rows = await transaction.fetch_all(self._batches.get, values)
        if len(rows) < len(ids):
            known = {row["id"] for row in await transaction.fetch_all(self._batches.find, values)}
            raise self._missing(ids, known)
        return _in_order(rows, [id.lower() for id in ids])

    async def insert_many(
        self, transaction: Transaction, items: Sequence[Mapping[str, Any]], *, created_by: str
    ) -> list[Row]:
        """Stores new rows, which all have the same columns, and returns them in the order of ``items``.

        Raises:
            DomainError: a constraint is broken.
        """
        own = {"tenant_id": transaction.tenant_id, "created_by": created_by}
        documents = [
            {**own, "id": str(uuid_utils.uuid7()), **values, POSITION: index} for index, values in enumerate(items)
        ]
        names = tuple(name for name in documents[0] if name != POSITION)
        await self._take_turn(transaction, names)
        rows = await transaction.fetch_all(self._batches.insert(names), {"items": documents})
        if len(rows) < len(documents):
            await self._refuse_taken(transaction, documents, names)
            raise errors.AbortedError(f"Another request changed a {self._resource}; try again.")
        ordered = _in_order(rows, [str(document["id"]) for document in documents])
        if self.tracks(names):
            for row in ordered:
                self.on_change(transaction, None, row)
        return ordered

    async def lock_many(
        self, transaction: Transaction, changes: Sequence[Change], *, reading: Sequence[str] = ()
    ) -> list[Row]:
        """Locks the live rows of ``changes`` until the transaction ends and returns them.

        Args:
            reading: the columns to return beside id, version, and tracked columns that change. Rows may be large.

        Raises:
            ValidationError: a row is there twice.
            NotFoundError: the tenant has no such live row.
            EtagMismatchError: an etag is set and not the row's.
        """
        ids = [change.id.lower() for change in changes]
        refuse_twice(ids, "requests[{}]")
        await self._take_turn(transaction, _names(changes))
        tracked = sorted(self.tracked.intersection(_names(changes)))
        values = named(transaction.tenant_id, ids)
        rows = await transaction.fetch_all(self._batches.lock((*reading, *tracked)), values)
        found = {row["id"]: row for row in rows}
        for index, change in enumerate(changes):
            with batch_item(index):
                row = found.get(ids[index])
                if row is None or row["delete_time"] is not None:
                    raise self._not_found(change.id)
                self.check_etag(row, change.etag)
        return [found[id] for id in ids]

    async def lock_live(self, transaction: Transaction, ids: Sequence[str], *, reading: Sequence[str]) -> list[Row]:
        """Locks live rows until the transaction ends and returns them in the order of ``ids``.

        Raises:
            ValidationError: an id is there twice.
            NotFoundError: the tenant has not all of them, live.
        """
        refuse_twice(ids, "ids[{}]")
        values = named(transaction.tenant_id, ids)
        rows = await transaction.fetch_all(self._batches.lock(tuple(reading)), values)
        live = [row for row in rows if row["delete_time"] is None]
        if len(live) < len(ids):
            raise self._missing(ids, {row["id"] for row in live})
        return _in_order(live, [id.lower() for id in ids])

    async def update_many(
        self, transaction: Transaction, changes: Sequence[Change], before: Sequence[Row]
    ) -> list[Row]:
        """Writes the values of each change into its row and returns the rows with their next versions.

        No change may take a unique value from another row, not even from one that gives it up in the same batch.

        Args:
            before: what `lock_many` returned for ``changes``.

        Raises:
            DomainError: a constraint is broken.
            PayloadTooLargeError: the rows are too large together.
        """
        names = _names(changes)
        documents = [
            {"id": row["id"], POSITION: index, WRITTEN: list(change.values), **change.values}
            for index, (row, change) in enumerate(zip(before, changes, strict=True))
        ]
        await self._refuse_taken(transaction, documents, names)
        values = {"tenant_id": transaction.tenant_id, "items": documents}
        try:
            after = await transaction.fetch_all(self._batches.update(names), values)
        except errors.ConflictError as error:
            # The value was free a moment ago. Under row-level security Postgres does not name the row that took it.
            raise errors.AbortedError(f"Another request changed a {self._resource}; try again.") from error
        ordered = self._fitting(after, before)
        for earlier, later, change in zip(before, ordered, changes, strict=True):
            if self.tracks(change.values):
                self.on_change(transaction, earlier, later)
        return ordered

    async def delete_many(self, transaction: Transaction, before: Sequence[Row]) -> list[Row]:
        """Hides the rows that `lock_many` returned from lists and returns them.

        Raises:
            PayloadTooLargeError: the rows are too large together.
        """
        values = named(transaction.tenant_id, [row["id"] for row in before])
        return self._fitting(await transaction.fetch_all(self._batches.delete, values), before)

    async def _take_turn(self, transaction: Transaction, names: Sequence[str]) -> None:
        """Waits for the tenant's other batches that write unique values: the batches might wait for each other."""
        if self._batches.keys_written(names):
            subject = f"{self._table.name} {transaction.tenant_id}"
            await transaction.fetch_one(TAKE_TURN, {"subject": subject})

    async def _refuse_taken(
        self, transaction: Transaction, documents: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> None:
        """Refuses the first item whose unique values belong to another live row or to an earlier item."""
        for key in self._batches.keys_written(names):
            values = {"tenant_id": transaction.tenant_id, "items": documents}
            taken = await transaction.fetch_one(self._batches.taken(key), values)
            if taken is not None:
                with batch_item(taken[POSITION]):
                    raise transaction.refusal(str(key.name))

    def _missing(self, ids: Sequence[str], known: set[str]) -> errors.NotFoundError | errors.PayloadTooLargeError:
        places = [index for index, id in enumerate(ids) if id.lower() not in known]
        if not places:
            return self._too_large()
        violations = [
            errors.FieldViolation(f"ids[{place}]", f"names no {self._resource}", "NOT_FOUND") for place in places
        ]
        return errors.NotFoundError(
            f"There is no {self._resource} with this id.",
            metadata={"item": violations[0].field},
            resource=errors.ResourceInfo(self._resource, ids[places[0]]),
            violations=violations,
        )

    def _fitting(self, after: Sequence[Row], before: Sequence[Row]) -> list[Row]:
        if len(after) < len(before):
            raise self._too_large()
        return _in_order(after, [row["id"] for row in before])

    def _too_large(self) -> errors.PayloadTooLargeError:
        return errors.PayloadTooLargeError(
            f"The answer would hold more than {MAX_ROWS_BYTES} bytes; name fewer at once.",
            metadata={"max_bytes": str(MAX_ROWS_BYTES)},
        )


def _names(changes: Sequence[Change]) -> tuple[str, ...]:
    """Returns the columns that any of ``changes`` writes, sorted, so that one set of columns has one statement."""
    return tuple(sorted({name for change in changes for name in change.values}))


def _in_order(rows: Sequence[Row], ids: Sequence[str]) -> list[Row]:
    found = {row["id"]: row for row in rows}
    return [found[id] for id in ids]
