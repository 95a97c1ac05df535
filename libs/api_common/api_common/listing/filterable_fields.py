"""The fields that filters and orders may name, as a service declares them.

    FIELDS = resource_fields(
        users,
        State,
        email=TextField(users.c.email, folded=users.c.email_folded, sortable=True),
        roles=TextListField(users.c.roles),
    )

Indexes that a service's migration creates for them (tests/queries reads the plans):
- one per sortable field, `(tenant_id, field, id)`: it serves both directions, `=`, `<`, … and `"abc*"` on the field;
- one per other field, `(tenant_id, field, create_time, id)`: it serves `=` in the default order;
- for labels `GIN (labels jsonb_path_ops)`, which serves `labels.team = "a"`;
- for a list of few possible texts `(tenant_id, create_time, id) WHERE roles @> '{admin}'`, one for each;
- none for `:`, for wildcards elsewhere in a text or for the presence of a label: these read the tenant's rows.

Under row-level security Postgres uses an index only for conditions made of LEAKPROOF functions (ADR 20): `=`, `<` and
`^@` are leakproof, `@>` is where `provisioning` may declare it so, `lower` and `LIKE` are not. A case-insensitive text
therefore needs a stored column in lower case (`folded`) instead of an index over `lower(email)`.
"""

import enum
import operator
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Final

from sqlalchemy import BigInteger, BindParameter, Column, ColumnElement, Text, bindparam, func

from api_common.contract import UUID_PATTERN
from api_common.db import to_micros

_COMPARE: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_INT64: Final = range(-(2**63), 2**63)
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


class MismatchError(Exception):
    """A comparison that its field does not support; the text says what the field is or needs."""


@dataclass(frozen=True, slots=True)
class Literal:
    """A value of a filter."""

    text: str
    """Without quotes and escapes."""
    pattern: str | None
    """The LIKE pattern of a value with wildcards; None if it has none."""
    prefix: str | None
    """The text before the wildcard, if the only wildcard is at the end."""

    @classmethod
    def read(cls, raw: str) -> "Literal":
        """Parses escapes and wildcards."""
        pieces = re.findall(r"\\(.)|(\*)|([^\\*]+)", raw, re.DOTALL)
        text = "".join(escaped or star or plain for escaped, star, plain in pieces)
        pattern = "".join("%" if star else _escape_like(escaped or plain) for escaped, star, plain in pieces)
        stars = [index for index, (_, star, _) in enumerate(pieces) if star]
        prefix = text[:-1] if stars == [len(pieces) - 1] else None
        return cls(text, pattern if stars else None, prefix)

    @property
    def exact(self) -> str:
        """The text, for fields without wildcards.

        Raises:
            MismatchError: the value has one.
        """
        if self.pattern is not None:
            raise MismatchError(r'does not know wildcards; write the character itself as "\*"')
        return self.text


@dataclass(frozen=True, slots=True)
class Field:
    """A column that filters may compare; one subclass per kind of value."""

    comparators: ClassVar[frozenset[str]] = frozenset("=")
    """The supported comparators; `=` includes `!=`."""

    column: Column[Any]
    """The column of the value."""
    _: KW_ONLY
    sortable: bool = False
    """Whether `order_by` may name it; the column must be NOT NULL."""

    def test(self, comparator: str, key: str, literal: Literal) -> tuple[str, Any]:
        """Returns the name of a test, which fixes its SQL, and the value of its parameter.

        Args:
            key: what follows the field's name after a dot, or the empty string.

        Raises:
            MismatchError: the field does not support this key, comparator or value.
        """
        _refuse_key(key)
        return comparator, self._parse(literal.exact)

    def _parse(self, text: str) -> Any:
        """Returns ``text`` as the driver takes it.

        Raises:
            MismatchError: it is not of the field's kind.
        """
        return text

    @property
    def order_column(self) -> Column[Any]:
        """The column that `order_by` compares."""
        return self.column

    def clause(self, test: str, parameter: str) -> ColumnElement[bool]:
        """Builds the SQL of a test."""
        clause: ColumnElement[bool] = _COMPARE[test](self.column, self._bind(parameter))
        return clause

    @property
    def operands(self) -> Mapping[str, ColumnElement[Any]]:
        """What `holds` needs of a row, by names of its own."""
        return {self.column.name: self.column}

    def folds(self, test: str) -> bool:
        """Tells whether the database folds the value of a test."""
        return False

    def holds(self, test: str, value: Any, operands: Mapping[str, Any]) -> bool | None:
        """Tells whether a test holds for a row, as its clause does; None for NULL.

        Args:
            value: of the parameter, folded by the database if the test folds.
        """
        held = operands[self._operand(test)]
        if held is None:
            return False if self.column.nullable else None
        return self._compare(test, held, value)

    def _operand(self, test: str) -> str:
        return self.column.name

    def _compare(self, test: str, held: Any, value: Any) -> bool:
        return bool(_COMPARE[test](held, value))

    def _bind(self, parameter: str) -> BindParameter[Any]:
        return bindparam(parameter, type_=self.column.type)


@dataclass(frozen=True, slots=True)
class TextField(Field):
    """A text: `=` exactly or by wildcards, `:` contains without case, `:*` is not empty."""

    comparators: ClassVar[frozenset[str]] = frozenset("=:")

    folded: Column[str] | None = field(default=None, kw_only=True)
    """A stored column with the text in lower case; with it `=` and orders compare without case, too."""

    @property
    def order_column(self) -> Column[Any]:
        """The folded text if there is one."""
        return self.column if self.folded is None else self.folded

    def test(self, comparator: str, key: str, literal: Literal) -> tuple[str, Any]:
        """Turns wildcards into LIKE patterns; a single one at the end becomes a prefix, which an index serves."""
        _refuse_key(key)
        if comparator == "=":
            if literal.prefix is not None:
                return "starts", literal.prefix
            return ("=", literal.text) if literal.pattern is None else ("like", literal.pattern)
        if literal.pattern == "%":
            return "contains", "%_%"
        return "contains", f"%{literal.pattern or _escape_like(literal.text)}%"

    def clause(self, test: str, parameter: str) -> ColumnElement[bool]:
        """Folds both sides in the database, so that both are folded alike."""
        value: ColumnElement[str] = bindparam(parameter, type_=Text())
        column: ColumnElement[str] = self.column
        if self.folded is not None:
            column, value = self.folded, func.lower(value)
        elif test == "contains":
            column, value = func.lower(column), func.lower(value)
        match test:
            case "=":
                return column == value
            case "starts":
                return column.bool_op("^@")(value)
        return column.like(value)

    @property
    def operands(self) -> Mapping[str, ColumnElement[Any]]:
        """The database folds: Python would fold some letters otherwise."""
        if self.folded is not None:
            return {self.folded.name: self.folded}
        return {self.column.name: self.column, f"{self.column.name} folded": func.lower(self.column)}

    def folds(self, test: str) -> bool:
        """Tells whether case does not count."""
        return self.folded is not None or test == "contains"

    def _operand(self, test: str) -> str:
        if self.folded is not None:
            return self.folded.name
        return f"{self.column.name} folded" if test == "contains" else self.column.name

    def _compare(self, test: str, held: Any, value: Any) -> bool:
        match test:
            case "=":
                return bool(held == value)
            case "starts":
                return bool(held.startswith(value))
        return _is_like(held, value)


@dataclass(frozen=True, slots=True)
class EnumField(Field):
    """One of a few names."""

    states: type[enum.Enum]
    """The members by the names in the API; the column holds their values."""

    def _parse(self, text: str) -> Any:
        if text not in self.states.__members__:
            raise MismatchError(f"is one of {', '.join(self.states.__members__)}")
        return self.states[text].value


@dataclass(frozen=True, slots=True)
class IdField(Field):
    """A UUID."""

    def _parse(self, text: str) -> str:
        if not UUID_PATTERN.fullmatch(text):
            raise MismatchError("is a UUID")
        return str(uuid.UUID(text))


@dataclass(frozen=True, slots=True)
class IntegerField(Field):
    """A whole number."""

    comparators: ClassVar[frozenset[str]] = frozenset(_COMPARE)

    def _parse(self, text: str) -> int:
        if not _INTEGER.fullmatch(text) or int(text) not in _INT64:
            raise MismatchError("is a whole number of at most 64 bits")
        return int(text)

    def _bind(self, parameter: str) -> BindParameter[Any]:
        # 64 bits for narrow columns, too: the driver would refuse a number that the column cannot hold.
        return bindparam(parameter, type_=BigInteger())


@dataclass(frozen=True, slots=True)
class TimestampField(Field):
    """A point in time."""

    comparators: ClassVar[frozenset[str]] = frozenset(_COMPARE)

    def _parse(self, text: str) -> datetime:
        try:
            if _TIMESTAMP.fullmatch(text.upper()):
                return datetime.fromisoformat(text.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            pass  # a 30th of February, or a first of January of the year 1 east of Greenwich
        raise MismatchError("is a timestamp such as 2030-01-31T12:00:00Z")

    def _compare(self, test: str, held: Any, value: Any) -> bool:
        return bool(_COMPARE[test](held, to_micros(value)))


@dataclass(frozen=True, slots=True)
class LabelsField(Field):
    """A JSON object of texts: `labels.team = "a"`; `labels:team` or `labels.team:*` for any value."""

    comparators: ClassVar[frozenset[str]] = frozenset("=:")

    def test(self, comparator: str, key: str, literal: Literal) -> tuple[str, Any]:
        """Puts the key into the parameter, so that labels share their SQL."""
        if not key and comparator == "=":
            raise MismatchError('needs the name of a label, as in labels.team = "a"')
        if not key:
            return "has", literal.exact
        if comparator == ":" and literal.pattern == "%":
            return "has", key
        return "contains", {key: literal.exact}

    def clause(self, test: str, parameter: str) -> ColumnElement[bool]:
        """Uses the operators that GIN indexes support."""
        if test == "has":
            return self.column.bool_op("?")(bindparam(parameter, type_=Text()))
        return self.column.bool_op("@>")(self._bind(parameter))

    def _compare(self, test: str, held: Any, value: Any) -> bool:
        return value in held if test == "has" else value.items() <= held.items()


@dataclass(frozen=True, slots=True)
class TextListField(Field):
    """A list of texts, as an array or as JSON: `roles:admin`."""

    comparators: ClassVar[frozenset[str]] = frozenset(":")

    def _parse(self, text: str) -> list[str]:
        return [text]

    def clause(self, test: str, parameter: str) -> ColumnElement[bool]:
        """Uses the operator that GIN indexes support for arrays and JSON."""
        return self.column.bool_op("@>")(self._bind(parameter))

    def _compare(self, test: str, held: Any, value: Any) -> bool:
        return value[0] in held


@dataclass(frozen=True, slots=True, eq=False)
class Fields:
    """The fields of one resource; `id` is among them, because every order ends with it.

    Raises:
        ValueError: `id` is missing, or a sortable column may be NULL, which keyset pages would skip.
    """

    by_name: Mapping[str, Field]
    """The fields by their names in the API."""

    def __post_init__(self) -> None:
        if not isinstance(self.by_name.get("id"), IdField):
            raise ValueError("The field `id` must be declared.")
        for name, declared in self.by_name.items():
            if declared.sortable and declared.column.nullable:
                raise ValueError(f"The column of the sortable field `{name}` must be NOT NULL.")

    @property
    def sortable(self) -> tuple[str, ...]:
        """The names of sortable fields."""
        return tuple(name for name, declared in self.by_name.items() if declared.sortable)

    @property
    def operands(self) -> Mapping[str, ColumnElement[Any]]:
        """What filters need of a row that they are to match in Python."""
        return {name: operand for declared in self.by_name.values() for name, operand in declared.operands.items()}


def _escape_like(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _is_like(text: str, pattern: str) -> bool:
    """Does what LIKE does, in time that grows with the text: each piece is best found as early as it can be."""
    if pattern == "%_%":
        return bool(text)
    first, *middle, last = _pieces(pattern)
    if not text.startswith(first):
        return False
    position = len(first)
    for piece in middle:
        found = text.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return position <= len(text) - len(last) and text.endswith(last)


@lru_cache(maxsize=256)
def _pieces(pattern: str) -> Sequence[str]:
    """Returns the texts between the wildcards of a LIKE pattern."""
    pieces = [""]
    for escaped, wildcard, plain in re.findall(r"\\(.)|(%)|([^\\%]+)", pattern, re.DOTALL):
        if wildcard:
            pieces.append("")
        else:
            pieces[-1] += escaped or plain
    return pieces


def _refuse_key(key: str) -> None:
    if key:
        raise MismatchError("has no parts to be named after a dot")
