"""The client of the Ameide API: `Client` for threads, `AsyncClient` for asyncio."""

from ameide_client import errors, types
from ameide_client.api_error import ApiError, Violation
from ameide_client.client import AsyncClient, Client
from ameide_client.paging import AsyncPager, Pager
from ameide_client.retries import RetryPolicy

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncPager",
    "Client",
    "Pager",
    "RetryPolicy",
    "Violation",
    "errors",
    "types",
]
