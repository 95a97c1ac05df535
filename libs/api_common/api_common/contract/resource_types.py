"""Finds the resources of methods and messages in the contract, so that no servicer has to name them."""

import re
from collections.abc import Iterator
from typing import Any, Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from api_common.contract.methods import MethodPolicy

UUID_PATTERN: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""The id of a resource or of a request, in either case."""

_ID: Final = "id"
_ITEMS: Final = "requests"
_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def type_of(resource: Descriptor) -> str:
    """Returns a resource's name in messages, e.g. `api_key` of `ApiKey`."""
    return _WORDS.sub("_", resource.name).lower()


def resource_of(method: MethodPolicy) -> Descriptor | None:
    """Returns the type of the resources in the responses of ``method``; None if there are none."""
    answer = cast(Descriptor, method.response_class.DESCRIPTOR)
    if _ID in answer.fields_by_name:
        return answer
    held = (field.message_type for field in answer.fields if field.message_type is not None)
    return next((message for message in held if _ID in message.fields_by_name), None)


def resources_in(message: Message) -> Iterator[Any]:
    """Yields the resources that ``message`` is or holds.

    The items of a batch are requests, not resources: refusing a hundred costs one event.
    """
    if _ID in message.DESCRIPTOR.fields_by_name:
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or _ID not in field.message_type.fields_by_name or field.name == _ITEMS:
            continue
        yield from value if field.is_repeated else (value,)
