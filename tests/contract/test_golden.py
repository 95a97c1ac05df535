"""What clients have on disk and on the wire today is what they get tomorrow."""

from functools import cache
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests import protos
from tests.contract import golden

CHANGED = f"the contract has changed; if you mean it, run `{golden.COMMAND}` and look at the difference"


@cache
def committed() -> dict[str, golden.Payload]:
    """The committed payloads by package and name."""
    return {f"{package}.{name}": one for package, named in golden.load().items() for name, one in named.items()}


@cache
def generated() -> dict[str, golden.Payload]:
    """What the contract of today makes of the same examples."""
    return {f"{package}.{name}": one for package, named in golden.payloads().items() for name, one in named.items()}


def parsed(name: str, payload: bytes) -> Message:
    classes: dict[str, Any] = {one.full_name: GetMessageClass(one) for one in protos.messages()}
    message: Message = classes[name.partition("[")[0]].FromString(payload)
    return message


def test_every_message_has_a_golden_payload_and_nothing_else_has() -> None:
    assert set(committed()) == set(generated()), CHANGED


@pytest.mark.parametrize("name", sorted(generated()))
def test_a_message_looks_as_it_did(name: str) -> None:
    assert generated()[name] == committed().get(name), CHANGED


@pytest.mark.parametrize("name", sorted(committed()))
def test_what_was_stored_can_still_be_read(name: str) -> None:
    stored = committed()[name]
    message = parsed(name, bytes.fromhex(stored["binary"]))
    assert golden.payload_of(message) == stored, CHANGED
    from_json = type(message)()
    json_format.ParseDict(stored["json"], from_json)
    assert from_json == message, CHANGED


def test_examples_leave_no_field_out() -> None:
    for descriptor in protos.messages():
        filled = {field.name for field, _ in golden.example(descriptor).ListFields()}
        alone = {field.name for field in descriptor.fields if field.containing_oneof is None}
        assert filled >= alone, descriptor.full_name
