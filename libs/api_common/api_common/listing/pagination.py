"""Keyset pagination: a page token holds the position of the last row, encrypted and bound to the call's parameters."""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import ColumnElement, and_, bindparam, or_, tuple_

from api_common.errors import ValidationError
from api_common.listing.filtering import OrderTerm

DEFAULT_PAGE_SIZE: Final = 50
"""Rows of a page when the request names no size."""
MAX_PAGE_SIZE: Final = 1000
"""Rows of a page at most; a larger request gets this many (AIP-158)."""

CursorValue: TypeAlias = str | int
"""The value of a column in the order of a list; UUIDs are texts, times microseconds."""


class InvalidPageTokenError(ValidationError):
    """The page token was not issued for this call."""

    reason = "INVALID_PAGE_TOKEN"
    sentence = "The page token was not issued for this call."


def clamp_page_size(requested: int) -> int:
    """Returns the size of a page: 0 means the default, too much means the maximum.

    Raises:
        ValidationError: ``requested`` is negative.

    Source: AIP-158.
    """
    if requested < 0:
        message = "The page size is malformed."
        raise ValidationError.of("page_size", "must not be negative", "OUT_OF_RANGE", message=message)
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def binding(tenant_id: str, method: str, *parts: str | bool) -> str:
    """Returns a digest of a call, to which its page token is bound.

    Args:
        parts: every parameter that changes the rows or their order; the order as its shape, so that a token of an
            earlier default order is refused.
    """
    return hashlib.sha256(json.dumps([tenant_id, method, *parts]).encode()).hexdigest()


class PageTokens:
    """Encrypts and authenticates positions in lists with Fernet. Tokens do not expire.

    Args:
        keys: Fernet keys. The first one encrypts, all of them decrypt: to rotate, put a new key in front and keep the
            old ones for a while.

    Raises:
        ValueError: there is no key, or one is not a Fernet key.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in keys])

    def seal(self, cursor: Sequence[CursorValue], *, binding: str) -> str:
        """Returns a URL-safe token that opens only with the same ``binding``."""
        content = json.dumps([binding, *cursor], ensure_ascii=False, separators=(",", ":"))
        return self._fernet.encrypt(content.encode()).rstrip(b"=").decode()

    def open(self, token: str, *, binding: str) -> list[CursorValue]:
        """Returns the position in a token.

        Raises:
            InvalidPageTokenError: the token is not valid; the error does not tell why.
        """
        try:
            content: list[Any] = json.loads(self._fernet.decrypt(_canonical(token)), object_hook=_time)
        except (InvalidToken, ValueError):
            content = [None]
        bound, *cursor = content
        if bound != binding:
            description = "must be a next_page_token of a call with the same parameters"
            raise InvalidPageTokenError.of("page_token", description, "INVALID_VALUE")
        return cursor


def keyset_clause(order: Sequence[OrderTerm]) -> ColumnElement[bool]:
    """Returns the condition for rows that follow the parameters `cursor_0`, `cursor_1`, … in ``order``.

    Args:
        order: terms without ties over columns that are NOT NULL, as `filtering.parse_order_by` makes them.
    """
    cursor = [bindparam(f"cursor_{index}", type_=term.column.type) for index, term in enumerate(order)]
    if len({term.descending for term in order}) == 1:
        columns, values = tuple_(*(term.column for term in order)), tuple_(*cursor)
        return columns < values if order[0].descending else columns > values
    following: list[ColumnElement[bool]] = []
    for index, (term, value) in enumerate(zip(order, cursor, strict=True)):
        ties = [before.column == held for before, held in zip(order[:index], cursor, strict=False)]
        following.append(and_(*ties, term.column < value if term.descending else term.column > value))
    # Implied by the rest, but the only part of it that an index can start from.
    first = order[0].column <= cursor[0] if order[0].descending else order[0].column >= cursor[0]
    return and_(first, or_(*following))


def _canonical(token: str) -> bytes:
    # The decoder skips foreign characters and spare bits, so many texts would open like one token.
    raw = base64.urlsafe_b64decode(f"{token}{'=' * (-len(token) % 4)}")
    canonical = base64.urlsafe_b64encode(raw)
    if canonical.rstrip(b"=") != token.encode():
        raise ValueError
    return canonical


def _time(value: dict[str, int]) -> int:
    """Reads a time of an older token, which holds it as an object."""
    return value["us"]
