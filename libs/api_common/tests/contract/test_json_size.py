"""The size of a JSON value as it is stored."""

import pytest
from api_common.contract.json_size import MAX_STRUCT_BYTES, check_size, size_violations
from api_common.errors import FieldViolation, ValidationError


@pytest.mark.parametrize(
    ("value", "size"),
    [({}, 2), ({"a": [1, None]}, 14), ("é", 4), ("😀", 6), ({"a": 1.5, "b": True}, 18)],
)
def test_size_counts_utf_8_bytes_without_spaces(value: object, size: int) -> None:
    assert size_violations("tool", value, max_bytes=size) == []
    assert size_violations("tool", value, max_bytes=size - 1)


def test_the_limit_itself_is_allowed() -> None:
    check_size("agent.parameters", "x" * (MAX_STRUCT_BYTES - 2))


def test_one_byte_more_is_not() -> None:
    with pytest.raises(ValidationError) as caught:
        check_size("agent.parameters", "x" * (MAX_STRUCT_BYTES - 1))
    assert caught.value.violations == (
        FieldViolation("agent.parameters", "is 65537 bytes as JSON, of which at most 65536 are kept", "TOO_LONG"),
    )
