"""Binds `If-Match` of HTTP to the `etag` fields of the contract: header and field are one condition.

Source: RFC 9110, sections 8.8.3 and 13.1.1; AIP-154 for the answer to a mismatch: ABORTED / 409, in either form.
"""

import re
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from api_common.errors import FieldViolation

IF_MATCH: Final = "if-match"
"""Metadata key of the etag that a client expects."""

ANY: Final = "*"
"""Matches every version; a missing resource is the method's own NOT_FOUND."""

# A weak tag never matches (RFC 9110, section 13.1.1), and a list does not name one expected version.
_STRONG_TAG: Final = re.compile(r'"[\x21\x23-\x7e]{0,62}"')


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
            return [FieldViolation(IF_MATCH, "this method takes no condition", "NOT_ALLOWED")]
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


def message_etag(message: Message) -> str:
    """Returns the entity tag of a resource; empty if it has none."""
    return str(getattr(message, "etag", ""))


def _updated(request: Descriptor) -> str | None:
    """Returns the name of the field with the resource that a request updates."""
    if "update_mask" not in request.fields_by_name:
        return None
    held = [(field.name, field.message_type) for field in request.fields if field.message_type is not None]
    return next((name for name, message in held if "etag" in message.fields_by_name), None)
