"""Times of rows and of messages are the same, to the microsecond."""

from datetime import UTC, datetime, timedelta, timezone

from ameide.user.v1 import user_pb2 as pb
from api_common.db.driver import to_datetime, to_micros
from api_common.resources import fill_times
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=ZONES | st.just(UTC))  # noqa: DTZ001  # bounds without a zone, as hypothesis wants them


@given(MOMENTS)
def test_a_message_says_what_protobuf_would(moment: datetime) -> None:
    expected = Timestamp()
    expected.FromDatetime(moment)
    user = pb.User()
    fill_times(user, {"create_time": to_micros(moment), "delete_time": None}, "create_time", "delete_time")
    assert user == pb.User(create_time=expected)


@given(MOMENTS)
def test_a_moment_comes_back(moment: datetime) -> None:
    assert to_datetime(to_micros(moment)) == moment
    assert to_datetime(to_micros(moment)).tzinfo is UTC
