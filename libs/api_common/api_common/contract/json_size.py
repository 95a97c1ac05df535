"""The limits of a JSON value in one column: its size and its depth."""

from typing import Final

import orjson

from api_common.errors import FieldViolation, ValidationError

MAX_STRUCT_BYTES: Final = 64 * 1024
"""The largest `google.protobuf.Struct` of any resource, as compact JSON."""

MAX_STRUCT_DEPTH: Final = 24
"""The deepest nesting of objects and lists in a `google.protobuf.Struct`.

A level is three messages, and protobuf decodes 100 nested messages, those around the Struct included.
"""


def check_size(field: str, value: object) -> None:
    """Checks that ``value`` is at most `MAX_STRUCT_BYTES` as compact JSON.

    Raises:
        ValidationError: it is larger; the violation names ``field``.
    """
    if violations := size_violations(field, value):
        raise ValidationError("A value is too large.", violations=violations)


def size_violations(field: str, value: object, *, max_bytes: int = MAX_STRUCT_BYTES) -> list[FieldViolation]:
    """Returns a violation of ``field`` if ``value`` is larger than ``max_bytes`` as compact JSON, else nothing."""
    size = len(orjson.dumps(value))
    description = f"is {size} bytes as JSON, of which at most {max_bytes} are kept"
    return [FieldViolation(field, description, "TOO_LONG")] if size > max_bytes else []
