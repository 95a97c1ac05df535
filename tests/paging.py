"""Walks lists as a client does."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

ResponseT = TypeVar("ResponseT")


async def all_pages(fetch: Callable[[str], Awaitable[ResponseT]]) -> list[ResponseT]:
    """Returns every page of a list; ``fetch`` asks for the one that a page token names."""
    pages: list[Any] = [await fetch("")]
    while token := pages[-1].next_page_token:
        pages.append(await fetch(token))
    return pages
