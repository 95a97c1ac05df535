"""Binds `If-Match` of HTTP to the `etag` fields of the contract, and compares entity tags with `If-None-Match`.

Source: RFC 9110, sections 8.8.3 and 13.1.1; AIP-154 for the answer to a mismatch: ABORTED / 409, in either form.
"""

import re
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from api_common.errors import FieldViolation

IF_MATCH: Final = "if-match"
"""Metadata key of the etag that a client expects."""

IF_NONE_MATCH: Final = "if-none-match"
"""Metadata key of the etags that a client has."""

ANY: Final = "*"
"""Matches every version; a missing resource is the method's own NOT_FOUND."""

# A weak tag never matches (RFC 9110, section 13.1.1), and a list does not name one expected version.
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,62}"')
_OPAQUE_TAG: Final = re.compile(r'"[^"]*"')


class Precondition:
    """The place of the expected etag in the requests of one method, read from the descriptor once.

    It is `etag` beside the id, or the `etag` of the one resource that an `update_mask` is for.

    Args:
        descriptor: the `DESCRIPTOR` of the request's class, for which the stubs have two types.
    """

    def __init__(self, descriptor: Any) -> None:
        self._resource = _updated(descriptor)
        self.known = self._resource is not None or "etag" in descriptor.fields_by_name
        """Whether the method takes a condition."""

    def bind(self, request: Message, values: tuple[str, ...]) -> list[FieldViolation]:
        """Writes the tag of the `if-match` headers into ``request``; returns what is wrong with them."""
        if not values:
            return []
        if not self.known:
            # Reject If-Match on methods that do not support it.
            return [FieldViolation(IF_MATCH, "must not be sent: this method takes no condition", "NOT_ALLOWED")]
        if len(values) > 1 or not (values[0] == ANY or _STRONG_TAG.fullmatch(values[0])):
            description = "must be `*` or one strong entity tag of at most 64 characters"
            return [FieldViolation(IF_MATCH, description, "INVALID_FORMAT")]
        holder = self._holder(request)
        if values[0] == ANY or holder is None:
            return []
        if holder.etag and holder.etag != values[0]:
            return [FieldViolation(IF_MATCH, "must not differ from the etag of the request", "CONFLICT")]
        holder.etag = values[0]
        return []

    def _holder(self, request: Any) -> Any:
        """Returns the message with the field; None if it is missing, which the check of required fields reports."""
        if self._resource is None:
            return request
        return getattr(request, self._resource) if request.HasField(self._resource) else None


def entity_tag(message: Message) -> str:
    """Returns the etag of a resource, or a weak one made of the message if that has no such field."""
    if "etag" in message.DESCRIPTOR.fields_by_name:
        return str(getattr(message, "etag"))  # noqa: B009 - the stubs of Message have no fields
    return f'W/"{blake2b(message.SerializeToString(deterministic=True), digest_size=8).hexdigest()}"'


def is_known(tag: str, values: Iterable[str]) -> bool:
    """Tells whether the `if-none-match` headers of a client name ``tag``, in the weak comparison."""
    return any(value.strip() == ANY or tag.removeprefix("W/") in _OPAQUE_TAG.findall(value) for value in values)


def _updated(request: Descriptor) -> str | None:
    """Returns the name of the field with the resource that a request updates."""
    if "update_mask" not in request.fields_by_name:
        return None
    held = [(field.name, field.message_type) for field in request.fields if field.message_type is not None]
    return next((name for name, message in held if "etag" in message.fields_by_name), None)
