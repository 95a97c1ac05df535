"""Tells what a tenant stores of what it may store; the database counts and refuses (ADR 37)."""

from collections.abc import Sequence

from ameide.common.v1.quota_pb2 import Quota
from sqlalchemy import BigInteger, bindparam, cast, func, select

from api_common.db import Transaction, compile_statement, metadata
from api_common.settings import QuotaSettings

_counts = metadata().tables["quota_counts"]
_USED = compile_statement(
    select(_counts.c.collection, cast(func.sum(_counts.c.live), BigInteger).label("used"))
    .where(_counts.c.tenant_id == bindparam("tenant_id"))
    .group_by(_counts.c.collection)
)


class Quotas:
    """The quotas of a service.

    Args:
        collections: the tables whose rows count.
    """

    def __init__(self, collections: Sequence[str], settings: QuotaSettings) -> None:
        self._collections = collections
        self._settings = settings

    async def list(self, transaction: Transaction) -> list[Quota]:
        """Returns the quota of each collection."""
        rows = await transaction.fetch_all(_USED, {"tenant_id": transaction.tenant_id})
        used = {row["collection"]: row["used"] for row in rows}
        limits = self._settings.of(transaction.tenant_id)
        return [
            Quota(collection=name, limit=limits.get(name, limits["*"]), used=used.get(name, 0))
            for name in self._collections
        ]
