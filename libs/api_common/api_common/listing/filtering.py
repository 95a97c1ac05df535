r"""Filters (AIP-160) and orders (AIP-132) over the fields that a service declares, as SQLAlchemy clauses.

The language of filters: `AND`, `OR` (it binds tighter than AND), `NOT` or `-`, parentheses, `field comparator value`;
in quotes `\` takes the meaning from the next character. Fields go by the proto's names or by JSON's. A NULL fails every
test, so its negation holds. Left out of AIP-160: values without a field, terms side by side without AND, functions.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from lark import Lark, Token, Tree, UnexpectedCharacters, UnexpectedToken
from sqlalchemy import Column, ColumnElement, and_, not_, or_

from api_common.errors import ValidationError
from api_common.listing.filterable_fields import Fields, Literal, MismatchError

MAX_FILTER_BYTES: Final = 2048
"""The longest filter that is parsed."""
MAX_FILTER_DEPTH: Final = 8
"""How deep parentheses may nest."""
MAX_FILTER_TERMS: Final = 20
"""Comparisons in one filter; each costs an index look-up or a test per row."""

DEFAULT_ORDER: Final = "create_time desc"
"""Newest first."""

Shape: TypeAlias = "tuple[str | Shape, ...]"
"""A filter without values: `("and" | "or" | "not", *shapes)`, `("test", field, test)`, or `()` for the empty one."""

_GRAMMAR: Final = Lark(
    r"""
    ?and: or (_AND or)*
    ?or: _factor (_OR _factor)*
    _factor: not | _simple
    not: (_NOT | _MINUS) _simple
    _simple: test | _OPEN and _CLOSE
    test: FIELD COMPARATOR (WORD | QUOTED)

    _AND: /AND\b/
    _OR: /OR\b/
    _NOT: "NOT"
    _MINUS: "-"
    _OPEN: "("
    _CLOSE: ")"
    FIELD: /[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_.-]*[A-Za-z0-9_])?/
    COMPARATOR: /[!<>]=|[=<>:]/
    WORD: /[^\s()"'\\=<>!]+/
    QUOTED: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/s
    %ignore /\s+/
    """,
    start="and",
    parser="lalr",
)
_EXPECTED: Final = {
    "FIELD": "a field's name",
    "COMPARATOR": "one of = != < <= > >= :",
    "WORD": "a value, in quotes if it holds spaces or signs",
}


class InvalidFilterError(ValidationError):
    """The filter cannot be parsed or names an unknown field."""

    reason = "INVALID_FILTER"


class InvalidOrderByError(ValidationError):
    """The order cannot be parsed or names an unknown field."""

    reason = "INVALID_ORDER_BY"


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter."""

    shape: Shape
    """Equal for filters over the same fields that differ in values only: the key for compiled SQL."""
    values: Mapping[str, Any]
    """The parameters `f0`, `f1`, …, as the driver takes them."""
    fields: Fields
    """What the filter may name."""

    @property
    def clause(self) -> ColumnElement[bool] | None:
        """The condition over `bindparam("f0")`, …; None for the empty filter. Built anew: ask once per shape."""
        return _clause(self.shape, self.fields, iter(self.values)) if self.shape else None

    @property
    def folding(self) -> Sequence[str]:
        """The parameters that the database must fold before `matcher` can use them."""
        tests = zip(self.values, _tests(self.shape), strict=True)
        return [parameter for parameter, (name, test) in tests if self.fields.by_name[name].folds(test)]

    def matcher(self, folded: Mapping[str, str]) -> Callable[[Mapping[str, Any]], bool]:
        """Returns what tells of the `Fields.operands` of a row whether `clause` is true for it.

        Args:
            folded: the value of each parameter in `folding`, folded.
        """
        if not self.shape:
            return lambda _: True
        meaning = _meaning(self.shape, self.fields, iter({**self.values, **folded}.values()))
        return lambda operands: meaning(operands) is True


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """One column of an order."""

    name: str
    """The name that callers know."""
    column: Column[Any]
    """What is compared."""
    descending: bool
    """Whether the greatest comes first."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order without ties."""

    terms: tuple[OrderTerm, ...]
    """The first decides; each other only among equals in those before."""

    @property
    def shape(self) -> str:
        """The order in words, e.g. `create_time desc, id desc`; the key for compiled SQL."""
        return ", ".join(f"{term.name} desc" if term.descending else term.name for term in self.terms)


# The pages of a list repeat its filter; parsing takes about 50 µs a comparison.
@lru_cache(maxsize=256)
def parse_filter(text: str, fields: Fields) -> Filter:
    """Parses the `filter` of a List request.

    Raises:
        InvalidFilterError: it is malformed, too large, or does not fit the fields; the violation says where.

    Source: AIP-160.
    """
    values: dict[str, Any] = {}
    shape = _resolve(_parse(text), fields, values) if text.strip() else ()
    return Filter(shape, MappingProxyType(values), fields)


def parse_order_by(text: str, fields: Fields) -> Order:
    """Parses the `order_by` of a List request; `id` breaks ties in the last term's direction, so that an index serves.

    Raises:
        InvalidOrderByError: it is malformed, or names a field twice or one that is not sortable.

    Source: AIP-132.
    """
    terms: dict[str, OrderTerm] = {}
    for part in (text.strip() or DEFAULT_ORDER).split(","):
        match = re.fullmatch(r"\s*([A-Za-z0-9_.]+)(?:\s+(asc|desc))?\s*", part)
        if match is None:
            raise _order_error("must look like `display_name, create_time desc`")
        written, direction = match.groups()
        name = _contract_name(written)
        if name not in fields.sortable:
            raise _order_error(f"cannot name `{written[:64]}`; sortable are {', '.join(fields.sortable)}")
        if name in terms:
            raise _order_error(f"must not name `{name}` twice")
        terms[name] = OrderTerm(name, fields.by_name[name].order_column, direction == "desc")
    if "id" not in terms:
        terms["id"] = OrderTerm("id", fields.by_name["id"].column, next(reversed(terms.values())).descending)
    return Order(tuple(terms.values()))


def _parse(text: str) -> Tree[Token]:
    # The parser itself does not recurse; the bounds, counted while it runs, protect what walks its tree.
    if len(text.encode(errors="replace")) > MAX_FILTER_BYTES:
        raise _filter_error(f"must not be longer than {MAX_FILTER_BYTES} bytes")
    if "\0" in text:
        raise _filter_error(f"must not hold a NUL character, as at column {text.index(chr(0)) + 1}")
    parser = _GRAMMAR.parse_interactive(text)
    depth = tests = 0
    try:
        for token in parser.iter_parse():
            depth += (token.type == "_OPEN") - (token.type == "_CLOSE")
            tests += token.type == "FIELD"
            if depth > MAX_FILTER_DEPTH:
                raise _filter_error(f"must not nest parentheses deeper than {MAX_FILTER_DEPTH}")
            if tests > MAX_FILTER_TERMS:
                raise _filter_error(f"must not hold more than {MAX_FILTER_TERMS} comparisons")
        tree: Tree[Token] = parser.feed_token(Token("$END", ""))
    except UnexpectedCharacters as error:
        raise _filter_error(_expected(error.allowed, error.pos_in_stream)) from None
    except UnexpectedToken as error:
        position = len(text) if error.token.type == "$END" else error.token.start_pos
        raise _filter_error(_expected(error.expected, position)) from None
    return tree


def _expected(terminals: set[str], position: int | None) -> str:
    words = next((words for terminal, words in _EXPECTED.items() if terminal in terminals), "AND, OR, ) or the end")
    return f"needs {words} at column {(position or 0) + 1}"


def _resolve(tree: Tree[Token], fields: Fields, values: dict[str, Any]) -> Shape:
    """Checks a tree against the fields, collects its values and returns its shape."""
    if tree.data != "test":
        return (str(tree.data), *(_resolve(part, fields, values) for part in tree.children if isinstance(part, Tree)))
    path, comparator, value = (part for part in tree.children if isinstance(part, Token))
    written, _, key = str(path).partition(".")
    where = f"`{written[:64]}` at column {(path.start_pos or 0) + 1}"
    name = _contract_name(written)
    field = fields.by_name.get(name)
    if field is None:
        raise _filter_error(f"names {where}; the fields are {', '.join(fields.by_name)}")
    sign = "=" if comparator == "!=" else str(comparator)
    if sign not in field.comparators:
        known = field.comparators | ({"!="} if "=" in field.comparators else set())
        raise _filter_error(f"compares {where} by {comparator} and not by one of {' '.join(sorted(known))}")
    try:
        test, parameter = field.test(sign, key, Literal.read(value[1:-1] if value.type == "QUOTED" else value))
    except MismatchError as mismatch:
        raise _filter_error(f"does not fit: {where} {mismatch}") from None
    values[f"f{len(values)}"] = parameter
    shape = ("test", name, test)
    return ("not", shape) if comparator == "!=" else shape


def _clause(shape: Shape, fields: Fields, parameters: Iterator[str]) -> ColumnElement[bool]:
    match shape:
        case ("test", str(name), str(test)):
            field = fields.by_name[name]
            clause = field.clause(test, next(parameters))
            return and_(field.column.is_not(None), clause) if field.column.nullable else clause
        case ("not", tuple(negated)):
            return not_(_clause(negated, fields, parameters))
        case (kind, *parts):
            clauses = [_clause(part, fields, parameters) for part in parts if isinstance(part, tuple)]
            return and_(*clauses) if kind == "and" else or_(*clauses)
    raise AssertionError(shape)


def _tests(shape: Shape) -> Iterator[tuple[str, str]]:
    """Yields field and test of each comparison, in the order of the parameters."""
    match shape:
        case ("test", str(name), str(test)):
            yield name, test
        case (_, *parts):
            for part in parts:
                if isinstance(part, tuple):
                    yield from _tests(part)


def _meaning(shape: Shape, fields: Fields, values: Iterator[Any]) -> Callable[[Mapping[str, Any]], bool | None]:
    """Returns what `_clause` means, in the logic of SQL: None for NULL."""
    match shape:
        case ("test", str(name), str(test)):
            return partial(fields.by_name[name].holds, test, next(values))
        case ("not", tuple(negated)):
            inner = _meaning(negated, fields, values)
            return lambda operands: None if (held := inner(operands)) is None else not held
        case (kind, *parts):
            meanings = [_meaning(part, fields, values) for part in parts if isinstance(part, tuple)]
            decisive = kind == "or"

            def combined(operands: Mapping[str, Any]) -> bool | None:
                unknown = False
                for meaning in meanings:
                    held = meaning(operands)
                    if held is decisive:
                        return decisive
                    unknown |= held is None
                return None if unknown else not decisive

            return combined
    raise AssertionError(shape)


def _contract_name(written: str) -> str:
    """Returns `create_time` for `createTime`, too: clients of JSON know the fields by those names."""
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", written)


def _filter_error(description: str) -> InvalidFilterError:
    return InvalidFilterError.of("filter", description, "INVALID_FORMAT", message="The filter is malformed.")


def _order_error(description: str) -> InvalidOrderByError:
    return InvalidOrderByError.of("order_by", description, "INVALID_FORMAT", message="The order is malformed.")
