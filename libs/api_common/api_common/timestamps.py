"""Times of rows as times of messages."""

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp_to_proto(moment: datetime | None) -> Timestamp | None:
    """Returns ``moment``, which knows its time zone, as a message; None stays None.

    By arithmetic: left to protobuf, the two timestamps of a row cost more than the rest of it (docs/performance.md).
    """
    if moment is None:
        return None
    since = moment - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)
