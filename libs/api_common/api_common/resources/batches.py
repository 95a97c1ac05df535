"""What a batch is made of: its items, and how an error says which of them it is about (AIP-231, 233 to 235)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar

from api_common.errors import DomainError, FieldViolation, ValidationError

RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


class DeleteRequest(Protocol):
    """The request of every Delete method."""

    id: str
    """Which resource."""
    etag: str
    """Empty for whatever version there is."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an item of a batch does to a resource that exists."""

    id: str
    """Which one."""
    etag: str
    """Empty for whatever version there is."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The columns to write; each item may write others."""

    @classmethod
    def deletion(cls, request: DeleteRequest) -> Self:
        """Returns the change that the request of a Delete method asks for."""
        return cls(request.id, request.etag)


@contextmanager
def batch_item(index: int) -> Iterator[None]:
    """Says of every error in the block that it is about this item of `requests`."""
    try:
        yield
    except DomainError as error:
        error.attach_item(f"requests[{index}]")
        raise


def map_items(requests: Iterable[RequestT], make: Callable[[RequestT], ResultT]) -> list[ResultT]:
    """Returns what ``make`` makes of every item.

    Raises:
        DomainError: what the first item raised that cannot be made, saying which it is.
    """
    made = []
    for index, request in enumerate(requests):
        with batch_item(index):
            made.append(make(request))
    return made


def refuse_twice(ids: Sequence[str], path: str) -> None:
    """Checks that no two items are about one resource: which of them should win?

    Args:
        path: where an item has its id, with `{}` for its place, e.g. `ids[{}]`.

    Raises:
        ValidationError: an id is there twice, in whatever case.
    """
    first_use: dict[str, int] = {}
    twice = [
        FieldViolation(path.format(index), f"names the same as {path.format(first)}")
        for index, id in enumerate(ids)
        if (first := first_use.setdefault(id.lower(), index)) != index
    ]
    if twice:
        raise ValidationError("The request is malformed.", violations=twice)
