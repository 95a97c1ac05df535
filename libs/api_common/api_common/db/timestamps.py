"""Times of rows: microseconds since 1970 in UTC; Postgres counts them, too, from 2000 on.

A row has two or three, and most are only passed on: a `datetime` of each, and taking it apart again, would cost 8,000
instructions, a time as much as all the texts of a user (docs/performance.md). Whoever calculates makes one.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Returns ``moment``, which knows its time zone, as rows hold it."""
    return (moment - _EPOCH) // _MICROSECOND


def to_datetime(micros: int) -> datetime:
    """Returns the time of a row, in UTC.

    Raises:
        OverflowError: it is not in the years 1 to 9999.
    """
    return _EPOCH + timedelta(microseconds=micros)
