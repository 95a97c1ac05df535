"""Which fields an Update writes (AIP-134, AIP-161)."""

from functools import cache
from typing import NoReturn, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from api_common.contract.field_behavior import has_behavior
from api_common.errors import ValidationError, ViolationReason


class InvalidUpdateMaskError(ValidationError):
    """The update mask names an unknown or immutable field."""

    reason = "INVALID_UPDATE_MASK"
    sentence = "The update mask is malformed."


def paths_to_write(message: Message, mask: FieldMask, *, mutable: frozenset[str]) -> tuple[str, ...]:
    """Returns the names of the fields to write, sorted, so that one set of fields has one statement.

    No mask means the populated fields, `*` all of ``mutable``. What the server sets, `etag` and the identifier may be
    named, as clients name what they read, and is left alone.

    Args:
        message: the resource with its new values.
        mutable: the names of the fields that Update may write.

    Raises:
        InvalidUpdateMaskError: the mask names a part of a field, a field that never changes, or none.
    """
    paths = mask.paths
    if not paths:
        return tuple(sorted(field.name for field, _ in message.ListFields() if field.name in mutable))
    descriptor = cast(Descriptor, message.DESCRIPTOR)
    ignored = _ignored(descriptor)
    for path in paths:
        if path != "*" and path not in mutable and path not in ignored:
            _refuse(path, descriptor)
    if "*" in paths:
        return tuple(sorted(mutable))
    return tuple(sorted(mutable.intersection(paths)))


@cache
def _ignored(descriptor: Descriptor) -> frozenset[str]:
    set_by_server = (
        field.name
        for field in descriptor.fields
        if has_behavior(field, "OUTPUT_ONLY") or has_behavior(field, "IDENTIFIER")
    )
    return frozenset({"etag", *set_by_server})


def _refuse(path: str, descriptor: Descriptor) -> NoReturn:
    name, dot, _ = path.partition(".")
    reason: ViolationReason
    if name not in descriptor.fields_by_name:
        problem, reason = "no field", "UNKNOWN"
    elif dot:
        problem, reason = f"a part of the field `{name}`", "INVALID_VALUE"
    else:
        problem, reason = "a field that cannot be changed", "NOT_ALLOWED"
    raise InvalidUpdateMaskError.of("update_mask", f"names {problem}: `{path[:64]}`", reason)
