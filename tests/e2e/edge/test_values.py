"""Each type that a field may have, with many values: what `strict.lua` passes on, the transcoder takes.

The transcoder's own refusals name no field, so nothing is left for it to refuse. The contract has one RPC more here,
whose request has a field of each type, also of those that no request has yet.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from ameide.common.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf import duration_pb2, wrappers_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorSet

from tests.e2e.edge.backend import SERVICE, Backend
from tests.e2e.edge.plugin import Layout, running
from tests.lua.filters import Filter
from tests.lua.test_strict import SCRAPS
from tools.edge.build import GENERATED
from tools.edge.generate import generate

PATH: Final = "/v1/users:try"
JSON: Final = {"content-type": "application/json"}
SCALARS: Final = tuple(
    name
    for name in FieldDescriptorProto.Type.keys()  # noqa: SIM118 - it is no mapping
    if name not in {"TYPE_GROUP", "TYPE_MESSAGE", "TYPE_ENUM"}
)
MESSAGES: Final = (
    *wrappers_pb2.DESCRIPTOR.message_types_by_name,
    *("Timestamp", "Duration", "FieldMask", "Struct", "Value", "ListValue"),
)
FIELDS: Final = ("number", *(name[5:].lower() for name in SCALARS), *(f"of{name.lower()}" for name in MESSAGES))
VALUES: Final = (
    *filter(None, SCRAPS),
    *('"1.0"', '"05"', '"+5"', '"1e-1"'),
    *("2147483647", "2147483648", "-2147483649", "4294967295", "-1.0", "-0.0", "1e2", "5e9", "1e19", "1e300"),
    *('"9223372036854775807"', '"9223372036854775808"', '"-9223372036854775809"', '"18446744073709551616"', '"1e3"'),
    *(
        "3.4028234e38",
        "3.5e38",
        "-3.5e38",
        "1.7976931348623157e308",
        "1.8e308",
        '"Infinity"',
        '"inf"',
        '"1e400"',
        "1e-400",
    ),
    *('"YQ=="', '"YQ"', '"YQ="', '"Y"', '"YR"', '"_-8"', '"_+8="', '"YWI="', '"YWI"', '"Y Q"', '"=="', '"YQ==="'),
    *('"1.5s"', '"-1s"', '"1.s"', '".5s"', '"s"', '"1.1234567890s"', '"1 s"', '"+1s"', '"1m"', '"315576000000s"'),
    *('"315576000001s"', '"-315576000000.5s"', '"99999999999999999999s"', '"01s"', '"1e3s"'),
    *('"2024-02-29T00:00:00Z"', '"2023-02-29T00:00:00Z"', '"1900-02-29T00:00:00Z"', '"2000-02-29T00:00:00Z"'),
    *('"2030-02-31T00:00:00Z"', '"2030-04-31T00:00:00Z"', '"2030-13-01T00:00:00Z"', '"2030-00-01T00:00:00Z"'),
    *('"2030-01-00T00:00:00Z"', '"2030-01-32T00:00:00Z"', '"2030-01-31T24:00:00Z"', '"2030-01-31T00:60:00Z"'),
    *('"2030-01-31T23:59:60Z"', '"2030-01-31T23:59:61Z"', '"0000-01-01T00:00:00Z"', '"0001-01-01T00:00:00Z"'),
    *('"0001-01-01T00:00:00+00:01"', '"0001-01-01T00:01:00+00:01"', '"9999-12-31T23:59:59.999999999Z"'),
    *('"9999-12-31T23:59:59-00:01"', '"9999-12-31T23:58:59-00:01"', '"10000-01-01T00:00:00Z"', '"2030-01-31T00:00:00"'),
    *('"2030-01-31T00:00:00+24:00"', '"2030-01-31T00:00:00+23:59"', '"2030-01-31T00:00:00+01:60"', '"2030-01-31"'),
    *(
        '"2030-01-31T00:00:00.Z"',
        '"2030-01-31T00:00:00.1234567890Z"',
        '"2030-01-31t00:00:00z"',
        '"2030-01-31 00:00:00Z"',
    ),
    *('"2030-01-31T00:00:00+0100"', '"2030-01-31T00:00:00ZZ"', '"-030-01-31T00:00:00Z"', '" 2030-01-31T00:00:00Z"'),
    *(
        '"display_name"',
        '"displayName,email"',
        '"user.displayName"',
        '"*"',
        '"a("',
        '"a[\\"b\\"]"',
        '"a\\\\b"',
        '"a,,b"',
        '","',
    ),
    *('"ONE"', '"one"', '"1"', "7", "-2147483648", "[[[[]]]]", '{"a": {"b": [1, {"c": null}]}}', '{"one": 1}'),
)


def contract() -> FileDescriptorSet:
    """Returns the contract with `TryUser`, which takes a list of each type."""
    found = FileDescriptorSet.FromString((GENERATED / "ameide.pb").read_bytes())
    known = {file.name for file in found.file}
    added = FileDescriptorSet()
    for module in (wrappers_pb2, duration_pb2):
        if module.DESCRIPTOR.name not in known:
            module.DESCRIPTOR.CopyToProto(added.file.add())
    (file,) = (one for one in found.file if any(service.name == SERVICE.name for service in one.service))
    needed = {wrappers_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name, "google/protobuf/struct.proto"}
    file.dependency.extend(needed - set(file.dependency))
    message: Any = file.message_type.add(name="TryUserRequest")
    kinds, own = FieldDescriptorProto.Type, f".{file.package}.TryUserRequest"
    enum = message.enum_type.add(name="Number")
    enum.value.add(name="NONE", number=0)
    enum.value.add(name="ONE", number=1)
    types: list[dict[str, Any]] = [
        {"type": kinds.Value("TYPE_ENUM"), "type_name": f"{own}.Number"},
        *({"type": kinds.Value(name)} for name in SCALARS),
        *({"type": kinds.Value("TYPE_MESSAGE"), "type_name": f".google.protobuf.{name}"} for name in MESSAGES),
    ]
    for number, (name, described) in enumerate(zip(FIELDS, types, strict=True), 1):
        message.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_REPEATED, **described)
    message.oneof_decl.add(name="either")
    for number, name in ((90, "one"), (91, "other")):
        message.field.add(name=name, number=number, type=kinds.Value("TYPE_INT32"), label=1, oneof_index=0)
    (service,) = (one for one in file.service if one.name == SERVICE.name)
    method = service.method.add(name="TryUser", input_type=own, output_type=f".{file.package}.User")
    options: Any = method.options.Extensions
    options[annotations_pb2.http].post = PATH
    options[annotations_pb2.http].body = "*"
    options[policy_pb2.policy].MergeFrom(policy_pb2.Policy(permission="users.try", rate_class=policy_pb2.READ))
    return FileDescriptorSet(file=[*added.file, *found.file])


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("contract")
    generate(contract(), folder)
    return folder


@pytest.fixture(scope="module")
def strict(generated: Path) -> Filter:
    return Filter("strict", generated)


@pytest.fixture(scope="module")
async def trying(layout: Layout, published: None, generated: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge with that contract."""
    async with (
        running(layout("trying", 2, generated=generated)) as edge,
        edge.client(headers=edge.credentials | JSON) as client,
    ):
        yield client


def refusal(strict: Filter, body: str) -> tuple[str, str] | None:
    """Returns the field and the reason of what `strict.lua` refuses."""
    passed = strict.request({":method": "POST", ":path": PATH} | JSON, body.encode())
    found = passed.metadata["strict"]
    return (found["field"], found["reason"]) if passed.status else None


@pytest.mark.parametrize("field", FIELDS)
async def test_that_passes_is_taken(strict: Filter, trying: httpx.AsyncClient, backend: Backend, field: str) -> None:
    refusals = {value: refusal(strict, f'{{"{field}": [{value}]}}') for value in VALUES}
    for value, found in refusals.items():
        # Where the text is no JSON, there is no field.
        assert found is None or re.match(rf"{field}(\[0\]|$)", found[0]) or not found[0], value
    good = [value for value, found in refusals.items() if found is None]
    assert 1 < len(good) < len(VALUES)
    answer = await trying.post(PATH, content=f'{{"{field}": [{", ".join(good)}]}}'.encode())
    assert answer.status_code == 200, answer.text
    assert len(backend.strays) == 1


def test_of_one_oneof_are_not_two(strict: Filter) -> None:
    assert refusal(strict, '{"one": 1}') is None
    assert refusal(strict, '{"one": 1, "other": 2}') == ("other", "CONFLICT")


@pytest.mark.parametrize(
    "value",
    [
        *("2030-02-31T00:00:00Z", "2023-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2030-04-31T00:00:00Z"),
        *("2030-01-31T24:00:00Z", "2030-01-31T00:00:60Z", "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+00:01"),
        *("9999-12-31T23:59:59-00:01", "2030-01-31T00:00:00+24:00"),
    ],
)
def test_that_no_calendar_has_is_refused(strict: Filter, value: str) -> None:
    assert refusal(strict, f'{{"oftimestamp": ["{value}"]}}') == ("oftimestamp[0]", "OUT_OF_RANGE")
