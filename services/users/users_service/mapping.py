"""proto ↔ row of a user."""

from collections.abc import Iterable
from typing import Any

from ameide.user.v1 import user_pb2 as pb
from api_common.repository import etag_of
from api_common.unit_of_work import Row

MUTABLE = frozenset({"display_name", "labels", "email", "roles"})
"""The fields that Create and Update write."""


def user_to_proto(row: Row) -> pb.User:
    """Returns the resource of a row."""
    return pb.User(
        id=row["id"],
        tenant_id=row["tenant_id"],
        display_name=row["display_name"],
        labels=row["labels"],
        state=row["state"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        delete_time=row["delete_time"],
        created_by=row["created_by"],
        etag=etag_of(row),
        email=row["email"],
        roles=row["roles"],
    )


def user_from_proto(user: pb.User, fields: Iterable[str] = MUTABLE) -> dict[str, Any]:
    """Returns the columns of the named fields."""
    columns = {
        "display_name": user.display_name,
        "labels": dict(user.labels),
        "email": user.email,
        "roles": list(user.roles),
    }
    return {name: columns[name] for name in fields}
