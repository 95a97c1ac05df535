"""Times of rows as times of messages."""

from datetime import UTC, datetime
from typing import Any, Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_to_proto(moment: datetime | None) -> Any:
    """Returns ``moment``, which knows its time zone, as the constructor of a message takes a field of it.

    That is its parts, computed here: made by protobuf, or handed over as a message, which would be copied by way of its
    bytes, the two timestamps of a row cost more than the rest of it (docs/performance.md).

    Args:
        moment: None leaves the field unset.
    """
    if moment is None:
        return None
    since = moment - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1000}
