"""Pages by keyset: a page token holds the last row's place in the order, sealed and bound to the call that got it."""

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from sqlalchemy import BindParameter, ColumnElement, and_, bindparam, or_, tuple_

from api_common.errors import FieldViolation, InvalidPageTokenError, ValidationError
from api_common.listing.filtering import OrderTerm

DEFAULT_PAGE_SIZE: Final = 50
"""Rows of a page when the request names no size."""
MAX_PAGE_SIZE: Final = 1000
"""Rows of a page at most; a larger request gets this many (AIP-158)."""

CursorValue: TypeAlias = str | int
"""What a column that a list is ordered by can hold; UUIDs are texts, times microseconds."""


def clamp_page_size(requested: int) -> int:
    """Returns the size of a page: 0 means the default, too much means the maximum.

    Raises:
        ValidationError: ``requested`` is negative.

    Source: AIP-158.
    """
    if requested < 0:
        violation = FieldViolation("page_size", "must not be negative")
        raise ValidationError("The page size is malformed.", violations=[violation])
    return min(requested or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def binding(tenant_id: str, method: str, *parts: str | bool) -> str:
    """Returns a digest of the call that a page token belongs to.

    Args:
        parts: every parameter that changes which rows there are or their order; the order as its shape, so that a new
            default order does not meet an old token.
    """
    return hashlib.sha256(json.dumps([tenant_id, method, *parts]).encode()).hexdigest()


class PageTokens:
    """Seals places in lists with Fernet: encrypted and authenticated. Tokens do not expire.

    Args:
        keys: Fernet keys. The first one seals, all of them open, so a new key goes in front and the old ones stay for a
            while.

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
        """Returns what was sealed.

        Raises:
            InvalidPageTokenError: whatever is wrong with the token; the error does not tell what.
        """
        try:
            content: list[Any] = json.loads(self._fernet.decrypt(_canonical(token)), object_hook=_time)
        except (InvalidToken, ValueError):
            content = [None]
        bound, *cursor = content
        if bound != binding:
            violation = FieldViolation("page_token", "must be a next_page_token of a call with the same parameters")
            raise InvalidPageTokenError("The page token was not issued for this call.", violations=[violation])
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
    for index, term in enumerate(order):
        ties = [before.column == value for before, value in zip(order[:index], cursor, strict=False)]
        following.append(and_(*ties, _follows(term, cursor[index])))
    # Implied by the rest, but the only part of it that an index can start from.
    first = order[0].column <= cursor[0] if order[0].descending else order[0].column >= cursor[0]
    return and_(first, or_(*following))


def _follows(term: OrderTerm, value: BindParameter[Any]) -> ColumnElement[bool]:
    return term.column < value if term.descending else term.column > value


def _canonical(token: str) -> bytes:
    # The decoder skips foreign characters and spare bits, so many texts would open like one token.
    raw = base64.urlsafe_b64decode(f"{token}{'=' * (-len(token) % 4)}")
    canonical = base64.urlsafe_b64encode(raw)
    if canonical.rstrip(b"=") != token.encode():
        raise ValueError
    return canonical


def _time(value: dict[str, int]) -> int:
    """Reads a time as tokens had it before rows did."""
    return value["us"]
