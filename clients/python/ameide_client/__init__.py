"""The client of the Ameide API: `Client` for threads, `AsyncClient` for asyncio."""

from ameide_client import errors, types
from ameide_client.api_error import ApiError, Violation
from ameide_client.retries import RetryPolicy
from ameide_client.services import AsyncClient, Client
from ameide_client.stacks import AsyncPager, Pager
from ameide_client.watching import AsyncWatch, Change, Watch

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncPager",
    "AsyncWatch",
    "Change",
    "Client",
    "Pager",
    "RetryPolicy",
    "Violation",
    "Watch",
    "errors",
    "types",
]
