"""Things to filter: their table, their rows, and filters with what each means in Python."""

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from api_common.listing import (
    EnumField,
    Fields,
    IdField,
    IntegerField,
    LabelsField,
    TextField,
    TextListField,
    TimestampField,
)
from hypothesis import strategies as st
from sqlalchemy import Column, Computed, DateTime, Integer, MetaData, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY, JSONB


class State(enum.StrEnum):
    ACTIVE = "ACTIVE"
    SUSPENDED = "SUSPENDED"


THINGS = Table(
    "things",
    MetaData(),
    Column("tenant_id", Text, nullable=False),
    Column("id", Uuid(as_uuid=False), nullable=False),
    Column("email", Text, nullable=False),
    Column("email_folded", Text, Computed("lower(email)", persisted=True), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("workflow_id", Uuid(as_uuid=False)),
    Column("create_time", DateTime(timezone=True), nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("roles", ARRAY(Text), nullable=False),
    Column("tags", JSONB, nullable=False),
)


FIELDS = Fields(
    {
        "id": IdField(THINGS.c.id, sortable=True),
        "email": TextField(THINGS.c.email, folded=THINGS.c.email_folded, sortable=True),
        "display_name": TextField(THINGS.c.display_name, sortable=True),
        "state": EnumField(THINGS.c.state, State),
        "revision": IntegerField(THINGS.c.revision),
        "workflow_id": IdField(THINGS.c.workflow_id),
        "create_time": TimestampField(THINGS.c.create_time, sortable=True),
        "labels": LabelsField(THINGS.c.labels),
        "roles": TextListField(THINGS.c.roles),
        "tags": TextListField(THINGS.c.tags),
    }
)


EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


# Everything that means something to LIKE, to the grammar or to a pattern, and a letter that is wider than a byte.
TEXTS = st.text(alphabet="abAB%_\\*\"'. 日", max_size=4)


KEYS = st.sampled_from(["team", "a-b.c", "n0"])


IDS = [str(UUID(int=number)) for number in range(4)]


TIMES = [EPOCH + timedelta(microseconds=number) for number in range(4)]


@dataclass(frozen=True)
class Thing:
    """A row, as Python sees it."""

    id: str
    email: str
    display_name: str
    state: State
    revision: int
    workflow_id: str | None
    create_time: datetime
    labels: dict[str, str]
    roles: list[str]


THING = st.builds(
    Thing,
    id=st.sampled_from(IDS),
    email=TEXTS,
    display_name=TEXTS,
    state=st.sampled_from(State),
    revision=st.integers(-2, 2),
    workflow_id=st.sampled_from([*IDS, None]),
    create_time=st.sampled_from(TIMES),
    labels=st.dictionaries(KEYS, TEXTS, max_size=2),
    roles=st.lists(TEXTS, max_size=2),
)


Meaning = Callable[[Thing], bool]


Written = tuple[str, str, Meaning]
"""What binds outermost (`AND`, `OR`, `NOT` or nothing), the filter, and what it means."""


def quoted(text: str) -> str:
    return '"' + re.sub(r'([\\"*])', r"\\\1", text) + '"'


@st.composite
def text_tests(draw: st.DrawFn) -> Written:
    name, folds = draw(st.sampled_from([("email", True), ("display_name", False)]))
    parts = draw(st.lists(TEXTS, min_size=1, max_size=3))
    written = '"' + "*".join(quoted(part)[1:-1] for part in parts) + '"'
    contains = draw(st.booleans())
    pattern = ".*".join(re.escape(part) for part in parts)
    if contains:
        pattern = ".+" if parts == ["", ""] else f".*{pattern}.*"
    compiled = re.compile(pattern, re.DOTALL | (re.IGNORECASE if contains or folds else 0))
    sign = ":" if contains else draw(st.sampled_from(["=", "!="]))

    def meaning(thing: Thing) -> bool:
        return (compiled.fullmatch(getattr(thing, name)) is not None) is (sign != "!=")

    return "", f"{name}{sign}{written}", meaning


SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda left, right: bool(left == right),
    "!=": lambda left, right: bool(left != right),
    "<": lambda left, right: bool(left < right),
    "<=": lambda left, right: bool(left <= right),
    ">": lambda left, right: bool(left > right),
    ">=": lambda left, right: bool(left >= right),
}


@st.composite
def scalar_tests(draw: st.DrawFn) -> Written:
    name = draw(st.sampled_from(["id", "workflow_id", "state", "revision", "create_time"]))
    signs = list(SIGNS) if name in ("revision", "create_time") else ["=", "!="]
    sign = draw(st.sampled_from(signs))
    value: Any
    match name:
        case "state":
            value = draw(st.sampled_from(State))
        case "revision":
            value = draw(st.integers(-2, 2) | st.just(2**40))
        case "create_time":
            value = draw(st.sampled_from(TIMES))
        case _:
            value = draw(st.sampled_from(IDS))
    written = value.isoformat() if isinstance(value, datetime) else str(value)
    return "", f"{name} {sign} {written}", lambda thing: SIGNS[sign](getattr(thing, name), value)


@st.composite
def collection_tests(draw: st.DrawFn) -> Written:
    key, text = draw(KEYS), draw(TEXTS)
    choices: list[tuple[str, Meaning]] = [
        (f"labels.{key} = {quoted(text)}", lambda thing: thing.labels.get(key) == text),
        (f"labels.{key} != {quoted(text)}", lambda thing: thing.labels.get(key) != text),
        (f"labels.{key}:{quoted(text)}", lambda thing: thing.labels.get(key) == text),
        (f"labels.{key}:*", lambda thing: key in thing.labels),
        (f"labels:{key}", lambda thing: key in thing.labels),
        (f"roles:{quoted(text)}", lambda thing: text in thing.roles),
        (f"tags:{quoted(text)}", lambda thing: text in thing.roles),
    ]
    return "", *draw(st.sampled_from(choices))


def negated(part: Written, sign: str) -> Written:
    outermost, written, meaning = part
    inner = f"({written})" if outermost else written
    return "NOT", f"{sign}{inner}", lambda thing: not meaning(thing)


def joined(parts: list[Written], word: str) -> Written:
    # Without parentheses wherever AIP-160 does not need them: OR binds tighter than AND.
    apart = {"AND": ("AND",), "OR": ("OR", "AND")}[word]
    written = f" {word} ".join(f"({text})" if outermost in apart else text for outermost, text, _ in parts)
    combine = all if word == "AND" else any
    return word, written, lambda thing: combine(meaning(thing) for _, _, meaning in parts)


FILTERS: st.SearchStrategy[Written] = st.recursive(
    text_tests() | scalar_tests() | collection_tests(),
    lambda inner: (
        st.builds(negated, inner, st.sampled_from(["NOT ", "-"]))
        | st.builds(joined, st.lists(inner, min_size=2, max_size=3), st.sampled_from(["AND", "OR"]))
    ),
    max_leaves=6,
)
