"""Both directions between message and row are complete, for every resource of every service."""

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
from api_common.contract import has_behavior
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from sqlalchemy import ARRAY, BigInteger, Boolean, Column, DateTime, Integer, Table, Text, Uuid
from sqlalchemy.types import TypeEngine

from tests import protos
from tests.contract import golden
from tests.services import Built, built_services

UNMAPPED_SUFFIXES: Final = ("_folded", "_hash", "replace_time")
"""Columns that only queries and comparisons read."""
OF_THE_SERVER: Final = {"etag"}
"""Fields that a client may send and no row holds: the etag is made of `version`."""

_VALUES: Final[dict[type[TypeEngine[Any]], Any]] = {
    Text: "text",
    Uuid: "01900000-0000-7000-8000-000000000001",
    BigInteger: 7,
    Integer: 7,
    Boolean: True,
    DateTime: 1_767_323_045_678_901,
    ARRAY: ["text"],
}


_NOTES: Final = ("steps", "retire_steps")
"""Columns with what a saga notes."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """What `mapping.py` says about one resource."""

    built: Built
    name: str
    """`user`."""

    @property
    def to_proto(self) -> Callable[[Any], Message]:
        found: Callable[[Any], Message] = getattr(self.built.module("mapping"), f"{self.name}_to_proto")
        return found

    @property
    def from_proto(self) -> Callable[..., dict[str, Any]] | None:
        """None for what clients only read."""
        return getattr(self.built.module("mapping"), f"{self.name}_from_proto", None)

    @property
    def mutable(self) -> frozenset[str]:
        module = self.built.module("mapping")
        found: frozenset[str] = getattr(module, f"{self.name.upper()}_MUTABLE", module.MUTABLE)
        return found

    @property
    def descriptor(self) -> Descriptor:
        descriptor: Descriptor = typing.get_type_hints(self.to_proto)["return"].DESCRIPTOR
        return descriptor

    @property
    def table(self) -> Table:
        return self.built.metadata.tables[f"{self.name}s"]

    def __str__(self) -> str:
        return self.name


class ReadRow(dict[str, Any]):
    """A row that remembers which columns were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def mappings() -> Iterator[Mapping]:
    """Every function `<resource>_to_proto` that takes a row of the table `<resource>s`."""
    for built in built_services():
        for name, _ in inspect.getmembers(built.module("mapping"), inspect.isfunction):
            resource = name.removesuffix("_to_proto")
            if resource != name and f"{resource}s" in built.metadata.tables:
                yield Mapping(built, resource)


MAPPINGS: Final = tuple(mappings())
WRITABLE: Final = tuple(mapping for mapping in MAPPINGS if mapping.from_proto)
every_mapping = pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
every_writable = pytest.mark.parametrize("mapping", WRITABLE, ids=str)


def full_row(mapping: Mapping) -> ReadRow:
    """Returns a row with every column set; what clients send is stored as the service stores it."""
    row = {column.name: _value(column) for column in mapping.table.columns}
    state = mapping.descriptor.fields_by_name.get("state")
    if state is not None and state.enum_type is not None:
        row["state"] = state.enum_type.values[1].name
    for writable in WRITABLE:
        # A snapshot holds, under the same names, what its original holds.
        if writable.built is mapping.built and writable.from_proto:
            stored = writable.from_proto(golden.example(writable.descriptor))
            row |= {name: value for name, value in stored.items() if name in row}
    return ReadRow(row)


@every_mapping
def test_a_row_populates_every_field(mapping: Mapping) -> None:
    message = mapping.to_proto(full_row(mapping))
    empty = {field.name for field in mapping.descriptor.fields} - {field.name for field, _ in message.ListFields()}
    assert not empty, f"{mapping.name}_to_proto leaves them out"


@every_mapping
def test_every_column_is_read(mapping: Mapping) -> None:
    row = full_row(mapping)
    mapping.to_proto(row)
    unread = {name for name in row if name not in row.read and not name.endswith(UNMAPPED_SUFFIXES)}
    assert not unread, f"{mapping.name}_to_proto does not read them"


@every_writable
def test_clients_may_write_what_the_contract_says_and_nothing_else(mapping: Mapping) -> None:
    closed = ("OUTPUT_ONLY", "IMMUTABLE", "IDENTIFIER")
    fields = {one.name for one in mapping.descriptor.fields if not any(has_behavior(one, name) for name in closed)}
    assert mapping.mutable == fields - OF_THE_SERVER


@every_writable
def test_every_field_that_clients_may_write_is_stored(mapping: Mapping) -> None:
    assert mapping.from_proto
    filled, empty = golden.example(mapping.descriptor), type(golden.example(mapping.descriptor))()
    stored, nothing = mapping.from_proto(filled), mapping.from_proto(empty)
    assert set(stored) == mapping.mutable == set(nothing)
    assert set(stored) <= set(mapping.table.columns.keys())
    lost = {name for name in stored if stored[name] == nothing[name]}
    assert not lost, f"{mapping.name}_from_proto does not take them from the message"
    for name in mapping.mutable:
        assert mapping.from_proto(filled, {name}) == {name: stored[name]}


@every_writable
def test_what_is_stored_comes_back_unchanged(mapping: Mapping) -> None:
    assert mapping.from_proto
    original = golden.example(mapping.descriptor)
    restored = mapping.to_proto(full_row(mapping))
    for name in mapping.mutable:
        assert getattr(restored, name) == getattr(original, name), name


def test_every_resource_has_a_mapping() -> None:
    mapped = {mapping.descriptor.full_name for mapping in MAPPINGS}
    served = {contract.file.package for built in built_services() for contract in built.service.descriptors}
    missing = {one.full_name for one in protos.resources() if one.file.package in served} - mapped
    assert not missing, "write `<resource>_to_proto(row)` in mapping.py, over the table `<resource>s`"


def _value(column: Column[Any]) -> Any:
    if column.name in _NOTES:
        return [{"name": "text", "state": "DONE"}]
    # What a client wrote into a JSONB column replaces this.
    return next((value for kind, value in _VALUES.items() if isinstance(column.type, kind)), {})
