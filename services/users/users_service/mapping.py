"""proto ↔ row of users, service accounts and API keys."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ameide.user.v1 import service_account_pb2 as account_pb
from ameide.user.v1 import user_pb2 as pb
from api_common.db import Row
from api_common.errors import ValidationError
from api_common.resources import Make, fill_times, make_resource
from google.protobuf.timestamp_pb2 import Timestamp

MUTABLE = frozenset({"display_name", "labels", "email", "roles"})
"""The fields of a user that Create and Update write."""
SERVICE_ACCOUNT_MUTABLE = frozenset({"display_name", "labels", "roles"})
"""The fields of a service account that Create and Update write."""


def user_to_proto(row: Row, make: Make[pb.User] = pb.User) -> pb.User:
    return make_resource(row, make, email=row["email"], roles=row["roles"])


def user_from_proto(user: pb.User, fields: Iterable[str] = MUTABLE) -> dict[str, Any]:
    columns = {
        "display_name": user.display_name,
        "labels": dict(user.labels),
        "email": user.email,
        "roles": list(user.roles),
    }
    return {name: columns[name] for name in fields}


def service_account_to_proto(
    row: Row, make: Make[account_pb.ServiceAccount] = account_pb.ServiceAccount
) -> account_pb.ServiceAccount:
    return make_resource(row, make, roles=row["roles"])


def service_account_from_proto(
    account: account_pb.ServiceAccount, fields: Iterable[str] = SERVICE_ACCOUNT_MUTABLE
) -> dict[str, Any]:
    columns = {"display_name": account.display_name, "labels": dict(account.labels), "roles": list(account.roles)}
    return {name: columns[name] for name in fields}


def api_key_to_proto(row: Row, make: Make[account_pb.ApiKey] = account_pb.ApiKey) -> account_pb.ApiKey:
    """Returns the settings of a key; the key itself is not stored."""
    key = make(
        id=row["id"],
        service_account_id=row["service_account_id"],
        tenant_id=row["tenant_id"],
        display_name=row["display_name"],
        prefix=row["prefix"],
        created_by=row["created_by"],
    )
    fill_times(key, row, "expire_time", "last_used_time", "revoke_time", "create_time")
    return key


def expire_time_from_proto(message: account_pb.ApiKey | account_pb.ApiKeyRotation) -> datetime | None:
    """Returns the `expire_time` of a message, None if it is not set.

    Raises:
        ValidationError: it is after the year 9999.
    """
    given: Timestamp = message.expire_time
    try:
        return given.ToDatetime(tzinfo=UTC) if message.HasField("expire_time") else None
    except (ValueError, OverflowError) as error:
        raise ValidationError.of("expire_time", "must be a time before the year 10000", "OUT_OF_RANGE") from error
