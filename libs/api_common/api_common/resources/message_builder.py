"""Makes messages without what protobuf is slow at."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, TypeVar

from google.protobuf.message import Message

from api_common.db import Row

MessageT = TypeVar("MessageT", bound=Message)

Make = Callable[..., MessageT]
"""Makes a message of its fields: its class, or the `add` of the list that it belongs to."""


def add_rows(rows: Iterable[Row], to_proto: Callable[[Row, Make[MessageT]], MessageT], add: Make[MessageT]) -> None:
    """Appends the messages of ``rows`` to a list, each made in its place.

    One that is made elsewhere and then handed to its list is copied, which protobuf does by writing it out and reading
    it in again: a sixth of what a list of users cost (docs/performance.md).
    """
    for row in rows:
        to_proto(row, add)


def fill(field: MutableMapping[str, str], values: Mapping[str, str] | None) -> None:
    """Sets a map field of a new message. By keyword that would take as long as a user's other fields together.

    Args:
        values: None, as a recorded change has it from before the column came (ADR 25), sets nothing.
    """
    for name, value in (values or {}).items():
        field[name] = value


def fill_times(message: Any, row: Row, *names: str) -> None:
    """Sets fields of a new message to the times that the row has under the same names; those that are None stay unset.

    By keyword they would take half as long again, and as messages several times as long: they would be copied by way
    of their bytes.
    """
    for name in names:
        micros = row[name]
        if micros is not None:
            time = getattr(message, name)
            time.seconds, rest = divmod(micros, 1_000_000)
            time.nanos = rest * 1000
