"""The limits of a JSON value in one column: its size and its depth."""

from typing import Final

import orjson

from api_common.errors import FieldViolation

MAX_STRUCT_BYTES: Final = 64 * 1024
"""The largest `google.protobuf.Struct` of any resource, as compact JSON."""

MAX_STRUCT_DEPTH: Final = 24
"""The deepest nesting of objects and lists in a `google.protobuf.Struct`.

A level is three messages, and protobuf decodes 100 nested messages, those around the Struct included.
"""


def compact_size(value: object) -> int:
    """Returns the bytes of ``value`` as JSON in UTF-8 without spaces."""
    return len(orjson.dumps(value))


def size_violations(field: str, value: object, *, max_bytes: int = MAX_STRUCT_BYTES) -> list[FieldViolation]:
    """Returns a violation of ``field`` if ``value`` is larger than ``max_bytes`` as compact JSON, else nothing."""
    size = compact_size(value)
    description = f"is {size} bytes as JSON, at most {max_bytes} are kept"
    return [FieldViolation(field, description, "TOO_LONG")] if size > max_bytes else []
