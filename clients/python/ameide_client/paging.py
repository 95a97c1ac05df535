"""Lists that fetch their next page when it is needed."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


PageT = TypeVar("PageT", bound=_Page)
ItemT = TypeVar("ItemT")


class Pager(Generic[PageT, ItemT]):
    """The items of all pages: `for user in client.users.list()`. Pages are fetched when they are needed."""

    def __init__(self, fetch: Callable[[str], PageT], items: Callable[[PageT], Sequence[ItemT]], token: str) -> None:
        self._fetch = fetch
        self._items = items
        self._token = token

    def pages(self) -> Iterator[PageT]:
        """Yields the pages as the server sent them; `next_page_token` resumes the list later."""
        token: str | None = self._token
        while token is not None:
            page = self._fetch(token)
            token = page.next_page_token or None
            yield page

    def __iter__(self) -> Iterator[ItemT]:
        for page in self.pages():
            yield from self._items(page)


class AsyncPager(Generic[PageT, ItemT]):
    """The items of all pages: `async for user in client.users.list()`. Pages are fetched when they are needed."""

    def __init__(
        self, fetch: Callable[[str], Awaitable[PageT]], items: Callable[[PageT], Sequence[ItemT]], token: str
    ) -> None:
        self._fetch = fetch
        self._items = items
        self._token = token

    async def pages(self) -> AsyncIterator[PageT]:
        """Yields the pages as the server sent them; `next_page_token` resumes the list later."""
        token: str | None = self._token
        while token is not None:
            page = await self._fetch(token)
            token = page.next_page_token or None
            yield page

    async def __aiter__(self) -> AsyncIterator[ItemT]:
        async for page in self.pages():
            for item in self._items(page):
                yield item
