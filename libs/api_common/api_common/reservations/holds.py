"""Reserves resources for holders in other services, in place of foreign keys between databases (ADR 27).

A holder reserves a resource with the service that owns it. Until the holder releases it, the service refuses the
methods that would delete or disable the resource, and names the holder.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import sqlalchemy as sa
from ameide.common.v1.reservation_pb2 import Holder
from sqlalchemy.dialects.postgresql import insert

from api_common.db import Transaction, compile_statement
from api_common.errors import AbortedError, FailedPreconditionError, ResourceInfo
from api_common.resources import batch_item


class StillReferencedError(FailedPreconditionError):
    """Another resource still needs this one."""

    reason = "STILL_REFERENCED"


def reservation_tables(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    """Declares the tables of holders and of their current reservations.

    Holders are kept for good, because a call may arrive late by any time.
    """
    holders = sa.Table(
        "reservation_holders",
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("fencing_token", sa.BigInteger, nullable=False),
        sa.Column("release_time", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("tenant_id", "id"),
    )
    reservations = sa.Table(
        "reservations",
        metadata,
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("holder_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.Column("resource_id", sa.Uuid(as_uuid=False), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "holder_id", "resource_id"),
    )
    sa.Index(None, reservations.c.tenant_id, reservations.c.resource_id)
    return holders, reservations


_holders, _reservations = reservation_tables(sa.MetaData())

_HOLDER: Final = insert(_holders).values(
    {
        **{name: sa.bindparam(name) for name in ("tenant_id", "id", "name", "fencing_token")},
        "release_time": sa.case((sa.bindparam("releases", type_=sa.Boolean), sa.func.now())),
    }
)
# An older token than the stored one updates no row: another worker has replaced its worker.
_STORE_HOLDER: Final = compile_statement(
    _HOLDER.on_conflict_do_update(
        index_elements=["tenant_id", "id"],
        set_={
            "fencing_token": _HOLDER.excluded.fencing_token,
            "release_time": sa.func.coalesce(_holders.c.release_time, _HOLDER.excluded.release_time),
        },
        where=_holders.c.fencing_token <= _HOLDER.excluded.fencing_token,
    ).returning(_holders.c.release_time)
)
_ids: Final = sa.bindparam("ids", type_=sa.ARRAY(sa.Uuid(as_uuid=False)))
_RESERVE: Final = compile_statement(
    insert(_reservations)
    .from_select(
        ["tenant_id", "holder_id", "resource_id"],
        sa.select(
            sa.bindparam("tenant_id", type_=sa.Text),
            sa.bindparam("id", type_=sa.Uuid(as_uuid=False)),
            sa.func.unnest(_ids),
        ),
    )
    .on_conflict_do_nothing()
    .returning(_reservations.c.resource_id)
)
_RELEASE: Final = compile_statement(
    sa.delete(_reservations)
    .where(_reservations.c.tenant_id == sa.bindparam("tenant_id"), _reservations.c.holder_id == sa.bindparam("id"))
    .returning(_reservations.c.resource_id)
)
_HELD: Final = compile_statement(
    sa.select(_reservations.c.resource_id, _holders.c.name)
    .join(_holders, (_holders.c.tenant_id == _reservations.c.tenant_id) & (_holders.c.id == _reservations.c.holder_id))
    .where(_reservations.c.tenant_id == sa.bindparam("tenant_id"), _reservations.c.resource_id == sa.func.any(_ids))
    .order_by(_reservations.c.holder_id)
)


class Reservations:
    """The reservations of one kind of resource.

    Args:
        resource: the resource's name in messages, e.g. `agent`.
    """

    def __init__(self, resource: str) -> None:
        self._resource = resource

    async def reserve(self, transaction: Transaction, holder: Holder, ids: Sequence[str]) -> None:
        """Reserves resources; the caller has locked their rows.

        Raises:
            AbortedError: a later worker of the holder has called before.
            FailedPreconditionError: the holder has already released.
        """
        if await self._store_holder(transaction, holder, releases=False):
            raise FailedPreconditionError("The holder has released what it held, and can reserve nothing any more.")
        await transaction.fetch_all(_RESERVE, {"tenant_id": transaction.tenant_id, "id": holder.id, "ids": ids})

    async def release(self, transaction: Transaction, holder: Holder) -> None:
        """Ends all reservations of the holder, and refuses later ones.

        Raises:
            AbortedError: a later worker of the holder has called before.
        """
        await self._store_holder(transaction, holder, releases=True)
        await transaction.fetch_all(_RELEASE, {"tenant_id": transaction.tenant_id, "id": holder.id})

    async def require_free(self, transaction: Transaction, id: str) -> None:
        """Checks that a resource is not reserved; the caller has locked its row.

        Raises:
            StillReferencedError: it is.
        """
        self._require_not_held(id, await self._held(transaction, [id]))

    async def require_all_free(self, transaction: Transaction, ids: Sequence[str]) -> None:
        """Checks that no resource of a batch is reserved; the caller has locked their rows.

        Raises:
            StillReferencedError: one is; the error names its item.
        """
        held = await self._held(transaction, ids)
        for index, id in enumerate(ids):
            with batch_item(index):
                self._require_not_held(id, held)

    async def _store_holder(self, transaction: Transaction, holder: Holder, *, releases: bool) -> bool:
        """Stores the holder and its token, and returns whether it has released."""
        own = {"tenant_id": transaction.tenant_id, "id": holder.id, "name": holder.name}
        values = {**own, "fencing_token": holder.fencing_token, "releases": releases}
        row = await transaction.fetch_one(_STORE_HOLDER, values)
        if row is None:
            raise AbortedError("Another worker has taken the holder's work over.")
        return row["release_time"] is not None

    async def _held(self, transaction: Transaction, ids: Sequence[str]) -> Mapping[str, str]:
        rows = await transaction.fetch_all(_HELD, {"tenant_id": transaction.tenant_id, "ids": ids})
        return {row["resource_id"]: row["name"] for row in rows}

    def _require_not_held(self, id: str, held: Mapping[str, str]) -> None:
        if (name := held.get(id.lower())) is not None:
            raise StillReferencedError(
                f"The {self._resource} is in use by {name}: it must be retired first.",
                metadata={"holder": name},
                resource=ResourceInfo(self._resource, id),
            )
