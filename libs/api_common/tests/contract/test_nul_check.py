"""Texts that cannot be stored are found wherever they hide."""

from typing import Any

from ameide.user.v1 import user_pb2 as pb
from api_common.contract.nul_check import nul_fields
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st


def struct(value: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(value)
    return made


def test_in_fields_lists_and_maps() -> None:
    user = pb.User(display_name="a\0", roles=["x", "\0"], labels={"k\0": "v", "team": "\0", "fine": "v"})
    found = list(nul_fields(pb.CreateUserRequest(user=user)))
    assert sorted(found) == ["user.display_name", "user.labels", "user.labels['team']", "user.roles[1]"]


def test_in_json_at_any_depth() -> None:
    found = list(nul_fields(struct({"a": {"b": [1, {"c": "\0"}]}, "d": "fine", "e\0": 1})))
    assert len(found) == 2
    assert all("\0" not in path for path in found)


def test_nothing_is_found_where_nothing_is() -> None:
    user = pb.User(display_name="\\0", labels={"a": "\\u0000"}, roles=["0"])
    assert list(nul_fields(user)) == []


texts = st.text(alphabet="a\0", max_size=3)
documents = st.recursive(texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@given(documents)
def test_every_one_is_found(document: object) -> None:
    assert bool(list(nul_fields(struct({"root": document})))) == _holds_nul(document)


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _holds_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(_holds_nul, value))
