"""What is too much to decode is refused unread, and texts that cannot be stored are found wherever they hide."""

from typing import Any

import pytest
from ameide.agent.v1 import agent_pb2
from ameide.user.v1 import user_pb2 as pb
from api_common.contract.json_size import MAX_STRUCT_BYTES, MAX_STRUCT_DEPTH
from api_common.contract.wire_scan import MAX_FIELDS, MAX_TEXT_BYTES, WireScan
from api_common.errors import FieldViolation, ValidationError
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st


def check(message: Message, more: bytes = b"") -> None:
    WireScan(message.DESCRIPTOR).check(message.SerializeToString() + more)


def refusal(message: Message) -> FieldViolation:
    with pytest.raises(ValidationError) as caught:
        check(message)
    (violation,) = caught.value.violations
    return violation


def _field(number: int, value: bytes) -> bytes:
    size = len(value)
    return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + value


def struct(value: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(value)
    return made


class TestFields:
    def test_may_be_as_many_as_the_limit(self) -> None:
        check(pb.BatchGetUsersRequest(ids=[""] * MAX_FIELDS))

    @pytest.mark.parametrize(
        ("message", "more"),
        [
            (pb.BatchGetUsersRequest(ids=[""] * (MAX_FIELDS + 1)), b""),
            (pb.BatchCreateUsersRequest(requests=[pb.CreateUserRequest(user=pb.User())] * (MAX_FIELDS // 2 + 1)), b""),
            (pb.User(labels={f"{index:x}": "v" for index in range(MAX_FIELDS // 3 + 1)}), b""),
            (pb.UpdateUserRequest(update_mask=FieldMask(paths=["x"] * MAX_FIELDS)), b""),
            (ListValue(values=[Value(bool_value=True)] * (MAX_FIELDS // 2 + 1)), b""),
            (pb.GetUserRequest(), b"\xf8\x7f\x01" * (MAX_FIELDS + 1)),  # an unknown varint
            (pb.GetUserRequest(), b"\xfa\x7f\x00" * (MAX_FIELDS + 1)),  # an unknown text
            (pb.GetUserRequest(), b"\xfb\x7f\xfc\x7f" * (MAX_FIELDS // 2 + 1)),  # an unknown group
            (pb.GetUserRequest(), b"\xfd\x7f0000" * (MAX_FIELDS + 1)),
            (pb.GetUserRequest(), b"\xf9\x7f00000000" * (MAX_FIELDS + 1)),
            (pb.GetUserRequest(), b"\x0a\x00" * (MAX_FIELDS + 1)),  # one field again and again
        ],
    )
    def test_beyond_the_limit_are_refused(self, message: Message, more: bytes) -> None:
        with pytest.raises(ValidationError, match="at most 12,000 fields") as caught:
            check(message, more)
        assert caught.value.metadata == {"max_fields": "12000"}


class TestTexts:
    def test_may_be_longer_than_their_rules_allow(self) -> None:
        check(pb.User(display_name="x" * MAX_TEXT_BYTES))

    @pytest.mark.parametrize(
        ("message", "field"),
        [
            (pb.User(display_name="x" * (MAX_TEXT_BYTES + 1)), "display_name"),
            (pb.GetUserRequest(id="x" * (MAX_TEXT_BYTES + 1)), "id"),
            (pb.BatchGetUsersRequest(ids=["", "x" * (MAX_TEXT_BYTES + 1)]), "ids[1]"),
            (agent_pb2.Agent(parameters=struct({"a": "x" * (MAX_STRUCT_BYTES * 4)})), "parameters"),
        ],
    )
    def test_beyond_that_are_refused_before_anybody_counts_characters(self, message: Message, field: str) -> None:
        violation = refusal(message)
        assert violation.field.startswith(field)
        assert violation.description.startswith("must be at most ")


texts = st.text(alphabet="a\0", max_size=3)
documents = st.recursive(texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


class TestNul:
    @pytest.mark.parametrize(
        ("user", "field"),
        [
            (pb.User(display_name="a\0"), "user.display_name"),
            (pb.User(roles=["x", "\0"]), "user.roles[1]"),
            (pb.User(labels={"k\0": "v"}), "user.labels"),
            (pb.User(labels={"team": "\0"}), "user.labels['team']"),
        ],
    )
    def test_is_found_in_fields_lists_and_maps(self, user: pb.User, field: str) -> None:
        expected = FieldViolation(field, "must not hold a NUL character", "INVALID_FORMAT")
        assert refusal(pb.CreateUserRequest(user=user)) == expected

    def test_is_not_found_where_none_is(self) -> None:
        check(pb.User(display_name="\\0", labels={"a": "\\u0000"}, roles=["0"]), b"\x50\x00")
        check(struct({"a": [None, 1, False, {}]}))

    @given(documents)
    def test_is_found_in_json_at_any_depth(self, document: object) -> None:
        message = struct({"root": document})
        if _holds_nul(document):
            assert "\0" not in refusal(message).field
        else:
            check(message)


class TestWhatIsNoMessage:
    @pytest.mark.parametrize("payload", [b"\x0a", b"\x0a\xff", b"\xff" * 20_000, b"\x08\xff"])
    def test_is_refused_or_left_to_the_decoder(self, payload: bytes) -> None:
        with pytest.raises((ValidationError, DecodeError)):
            WireScan(pb.GetUserRequest.DESCRIPTOR).check(payload)
            pb.GetUserRequest.FromString(payload)

    def test_may_nest_for_ever(self) -> None:
        payload = b""
        for _ in range(5_000):  # a Value in a ListValue in a Value …
            payload = _field(6, _field(1, payload))
        with pytest.raises(ValidationError, match="does not decode"):
            WireScan(Value.DESCRIPTOR).check(payload)

    @given(st.binary(max_size=64))
    def test_never_breaks_the_scan(self, payload: bytes) -> None:
        """Whatever the decoder takes, the scan takes, unless it holds a NUL."""
        try:
            WireScan(pb.CreateUserRequest.DESCRIPTOR).check(payload)
        except ValidationError as error:
            if not error.violations:
                with pytest.raises(DecodeError):
                    pb.CreateUserRequest.FromString(payload)


def test_depth_of_json_stays_below_what_the_scan_can_follow() -> None:
    value: Any = 1
    for _ in range(MAX_STRUCT_DEPTH):
        value = [value]
    check(struct({"a": value}))


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_holds_nul, value))
