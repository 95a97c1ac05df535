"""Violations name fields as callers know them: JSON's names are made from the proto's."""

from api_common.errors import json_path

from tests import protos


def test_a_name_of_json_is_what_protobuf_makes_of_it() -> None:
    for message in protos.messages():
        for field in message.fields:
            assert json_path(field.name) == field.json_name
