"""Converts google.protobuf.Struct to plain JSON values, which rules check and columns store, and back."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from api_common.contract.json_size import MAX_STRUCT_DEPTH
from api_common.errors import ValidationError


def struct_to_json(struct: Struct, field: str) -> dict[str, Any]:
    """Returns the object of a Struct; the way back gives the same Struct, except for the sign of a zero.

    Args:
        field: the path of ``struct`` in the request, for the violation.

    Raises:
        ValidationError: it nests too deep, or holds NaN, Infinity or a value of no kind, as only binary messages can.
    """
    return {key: _plain(value, field, 1) for key, value in struct.fields.items()}


def struct_from_json(value: Mapping[str, Any] | None) -> Struct | None:
    """Returns the Struct of an object; None for None, so that a message built with it lacks the field."""
    if value is None:
        return None
    struct = Struct()
    struct.update(value)
    return struct


def _plain(value: Value, field: str, depth: int) -> Any:
    """Converts a value inside ``depth`` objects and lists."""
    kind = value.WhichOneof("kind")
    if depth == MAX_STRUCT_DEPTH and kind in {"struct_value", "list_value"}:
        raise ValidationError.of(field, f"must not nest deeper than {MAX_STRUCT_DEPTH} levels", "TOO_LONG")
    match kind:
        case "null_value":
            return None
        case "number_value":
            if not isfinite(value.number_value):
                raise ValidationError.of(field, "must hold finite numbers only", "OUT_OF_RANGE")
            return value.number_value
        case "struct_value":
            return {key: _plain(item, field, depth + 1) for key, item in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item, field, depth + 1) for item in value.list_value.values]
        case None:
            raise ValidationError.of(field, "must not hold a value of no kind", "INVALID_FORMAT")
        case _:
            return getattr(value, kind)
