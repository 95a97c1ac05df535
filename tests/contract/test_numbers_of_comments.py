"""The limits that comments of the contract state are those of its rules and of the code."""

import re
from typing import Any, Final, cast

import pytest
from api_common.contract import MAX_FIELDS, MAX_STRUCT_BYTES, MAX_STRUCT_DEPTH
from buf.validate import validate_pb2
from google.protobuf.descriptor import FieldDescriptor
from users_service.domain import MAX_LIVE_KEYS
from workflows_service.domain import MAX_DEFINITION_BYTES

from tests import protos
from tools.contract.descriptors import comments, files

IN_CODE: Final = {MAX_STRUCT_BYTES // 1024, MAX_STRUCT_DEPTH}
"""Limits that no rule of `buf.validate` can state: KiB and levels."""
FIELDS: Final = [
    field
    for file in files()
    for message in file.message_types_by_name.values()
    for field in message.fields
    if re.search(r"(at most|up to|1 to) \d", comments().get(field.full_name, ""))
]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.full_name)
def test_a_limit_in_the_comment_of_a_field_is_one_of_its_rules(field: FieldDescriptor) -> None:
    stated = re.findall(r"(?:at most|up to|1 to) ([\d,]*\d)", " ".join(comments()[field.full_name].split()))
    rules = re.findall(r"\d+", str(protos.option(field, cast(Any, validate_pb2).field)))
    # A pattern counts neither its first character nor, for labels, its last one.
    allowed = IN_CODE | {int(rule) + rest for rule in rules for rest in (0, 1, 2)}
    assert {int(number.replace(",", "")) for number in stated} <= allowed


def test_the_limits_of_whole_messages_are_those_of_the_code() -> None:
    assert f"at most {MAX_DEFINITION_BYTES // 1024**2} MiB" in comments()["ameide.workflow.v1.Definition"]
    assert f"at most {MAX_FIELDS:,} fields" in (protos.ROOT / "docs/api-guide.md").read_text()
    created = " ".join(comments()["ameide.user.v1.ServiceAccountService.CreateApiKey"].split())
    assert f"if it has {MAX_LIVE_KEYS} keys" in created
