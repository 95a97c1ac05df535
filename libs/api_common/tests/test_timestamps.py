"""Times of messages are those of rows, to the microsecond."""

from datetime import UTC, datetime, timedelta, timezone

from api_common.timestamps import timestamp_to_proto
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=ZONES | st.just(UTC)))  # noqa: DTZ001  # bounds without a zone, as hypothesis wants them
def test_says_what_protobuf_would(moment: datetime) -> None:
    expected = Timestamp()
    expected.FromDatetime(moment)
    assert Timestamp(**timestamp_to_proto(moment)) == expected


def test_nothing_stays_nothing() -> None:
    assert timestamp_to_proto(None) is None
