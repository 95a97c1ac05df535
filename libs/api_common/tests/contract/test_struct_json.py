"""A Struct survives the database, and what JSON cannot hold is refused by name."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import asyncpg
import orjson
import pytest
from api_common.contract.json_size import MAX_STRUCT_DEPTH
from api_common.contract.struct_json import struct_from_json, struct_to_json
from api_common.errors import ValidationError
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Text, bindparam, cast, select
from sqlalchemy.dialects.postgresql import JSONB

# What JSON in Postgres can hold: no NUL, and no halves of a surrogate pair, which protobuf refuses, too.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
# Adding zero takes the sign from zero, as jsonb does.
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=20
)
objects = st.dictionaries(texts, values, max_size=5)

STORED = select(cast(cast(bindparam("value", type_=Text()), JSONB), Text))


def struct(value: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(value)
    return made


def nested(levels: int, *, kind: type[Any]) -> dict[str, Any]:
    """Returns an object of ``levels`` objects, or of lists from the second level on."""
    value: Any = "leaf"
    for _ in range(levels - 1):
        value = [value] if kind is list else {"inner": value}
    return {"outer": value}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(objects)
def test_a_struct_comes_back_from_jsonb_as_it_was(
    scratch_database: Callable[..., list[asyncpg.Record]], value: dict[str, Any]
) -> None:
    original = struct(value)
    [(stored,)] = scratch_database(STORED, {"value": orjson.dumps(struct_to_json(original, "field")).decode()})
    assert struct_from_json(orjson.loads(stored)) == original


@pytest.mark.parametrize(
    "number", [0.0, 1.0, -1.5, 2.0**53 + 2, 1e22, 1.2345678901234567e22, 5e-324, 1.7976931348623157e308]
)
def test_a_number_comes_back_from_jsonb_to_the_last_bit(
    scratch_database: Callable[..., list[asyncpg.Record]], number: float
) -> None:
    original = struct({"number": number})
    [(stored,)] = scratch_database(STORED, {"value": orjson.dumps(struct_to_json(original, "field")).decode()})
    restored = struct_from_json(orjson.loads(stored))
    assert restored is not None
    assert restored.SerializeToString() == original.SerializeToString()


def test_an_object_that_looks_like_a_struct_stays_an_object() -> None:
    original = struct({"fields": {"a": {"number_value": 1.0}}})
    assert struct_from_json(struct_to_json(original, "field")) == original


def test_nothing_is_not_an_empty_object() -> None:
    assert struct_from_json(None) is None
    assert struct_from_json({}) == Struct()


@pytest.mark.parametrize("kind", [dict, list])
def test_nests_as_deep_as_allowed_and_no_deeper(kind: type[Any]) -> None:
    fits = nested(MAX_STRUCT_DEPTH, kind=kind)
    assert struct_to_json(struct(fits), "field") == fits
    with pytest.raises(ValidationError) as caught:
        struct_to_json(struct(nested(MAX_STRUCT_DEPTH + 1, kind=kind)), "agent.parameters")
    (violation,) = caught.value.violations
    assert (violation.field, str(MAX_STRUCT_DEPTH) in violation.description) == ("agent.parameters", True)


@pytest.mark.parametrize(
    "bad",
    [
        Value(number_value=nan),
        Value(number_value=inf),
        Value(number_value=-inf),
        Value(),
        Value(list_value=ListValue(values=[Value(number_value=nan)])),
        Value(struct_value=Struct(fields={"inner": Value()})),
    ],
    ids=str,
)
def test_what_json_cannot_hold_is_refused(bad: Value) -> None:
    with pytest.raises(ValidationError) as caught:
        struct_to_json(Struct(fields={"bad": bad}), "agent.parameters")
    assert [violation.field for violation in caught.value.violations] == ["agent.parameters"]
