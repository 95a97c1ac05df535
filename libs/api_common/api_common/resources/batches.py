"""The items of a batch, and errors that name their item (AIP-231, 233 to 235)."""

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
    """Empty for any version."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one resource: an item of a batch."""

    id: str
    """Which one."""
    etag: str
    """Empty for any version."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The columns to write; each item may write others."""

    @classmethod
    def deletion(cls, request: DeleteRequest) -> Self:
        """Returns the change that the request of a Delete method asks for."""
        return cls(request.id, request.etag)


@contextmanager
def batch_item(index: int) -> Iterator[None]:
    """Attaches the item of `requests` to every error in the block."""
    try:
        yield
    except DomainError as error:
        error.attach_item(f"requests[{index}]")
        raise


def map_items(requests: Iterable[RequestT], make: Callable[[RequestT], ResultT]) -> list[ResultT]:
    """Returns the results of ``make`` for all items.

    Raises:
        DomainError: the error of the first item that fails; it names the item.
    """
    made = []
    for index, request in enumerate(requests):
        with batch_item(index):
            made.append(make(request))
    return made


def refuse_twice(ids: Sequence[str], path: str) -> None:
    """Checks that no two items name the same resource.

    Args:
        path: the field path of an item's id, with `{}` for its index, e.g. `ids[{}]`.

    Raises:
        ValidationError: an id is there twice; case does not matter.
    """
    first_use: dict[str, int] = {}
    twice = [
        FieldViolation(path.format(index), f"names the same as {path.format(first)}", "DUPLICATE")
        for index, id in enumerate(ids)
        if (first := first_use.setdefault(id.lower(), index)) != index
    ]
    if twice:
        raise ValidationError("The request is malformed.", violations=twice)
