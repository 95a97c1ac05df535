"""What another tenant's resource looks like: nothing that ever existed."""

from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from api_common.testing.error_assertions import refused
from api_common.testing.identity import Caller

NEVER: Final = "01900000-0000-7000-8000-000000000000"
"""A well-formed id that no resource has."""


async def assert_hidden(call: Callable[[str, Caller], Awaitable[object]], id: str, stranger: Caller) -> None:
    """The answer for another tenant's ``id`` is, byte for byte, that for an id that never existed."""
    with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND") as other:
        await call(id, stranger)
    with refused(grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND") as never:
        await call(NEVER, stranger)
    assert other.payload.replace(id.encode(), b"") == never.payload.replace(NEVER.encode(), b"")
