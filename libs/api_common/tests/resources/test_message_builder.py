"""Rows become the messages of a list in their order, each in its own."""

from ameide.user.v1 import user_pb2 as pb
from api_common.db import Row
from api_common.resources.message_builder import Make, fill, with_rows


async def test_appends_a_message_for_each_row() -> None:
    def to_proto(row: Row, make: Make[pb.User]) -> pb.User:
        return make(display_name=row["display_name"])

    rows = [{"display_name": "Ada"}, {"display_name": "Grace"}]
    answer = await with_rows(pb.ListUsersResponse(), "users", rows, to_proto)
    assert answer == pb.ListUsersResponse(users=[pb.User(display_name="Ada"), pb.User(display_name="Grace")])


def test_fills_a_map_with_what_is_there() -> None:
    user = pb.User()
    fill(user.labels, {"team": "red"})
    fill(user.labels, None)
    assert user.labels == {"team": "red"}
