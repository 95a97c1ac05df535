"""The committed OpenAPI document against the contract, and against those who know what a good one is."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import protovalidate
import pytest
from ameide.common.v1 import example_pb2, violation_pb2
from api_common.contract import has_behavior, read_policies
from api_common.listing import MAX_PAGE_SIZE
from buf.validate import validate_pb2
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, json_format
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tests import node_packages, protos
from tests.contract.test_api_guide import GUIDE
from tools.edge.build import ENVOY
from tools.openapi import document
from tools.openapi.schemas import Schemas

LINTER: Final = Path(__file__).parent / "openapi-linter"
DOCUMENT: Final[dict[str, Any]] = json.loads(document.PATH.read_text())
OPERATIONS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    operation["operationId"]: (verb, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for verb, operation in item.items()
}
ROUTED: Final = [one for one in protos.methods() if protos.option(one, annotations_pb2.http).WhichOneof("pattern")]
EXAMPLES: Final = [one for one in protos.messages() if one.GetOptions().HasExtension(example_pb2.example)]


def parameters_of(name: str) -> set[str]:
    named = (one.get("name") or one["$ref"].rpartition("/")[2] for one in OPERATIONS[name][2]["parameters"])
    return set(named)


def test_the_committed_document_is_what_the_contract_makes() -> None:
    assert document.render() == document.PATH.read_text(), (
        "the contract has changed: run `make openapi`, then look at it"
    )


def test_a_linter_finds_nothing() -> None:
    redocly = node_packages.installed(LINTER) / "node_modules" / ".bin" / "redocly"
    quiet = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    command = [str(redocly), "lint", str(document.PATH)]
    result = subprocess.run(command, cwd=LINTER, env=os.environ | quiet, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Your API description is valid" in result.stderr
    assert "warning" not in result.stderr.replace("Deprecation warning", "")


def test_every_route_is_an_operation_and_nothing_else_is() -> None:
    assert set(OPERATIONS) == {method.name for method in ROUTED}
    assert len(OPERATIONS) == len(ROUTED)


@pytest.mark.parametrize("method", ROUTED, ids=lambda method: method.full_name)
class TestOperation:
    def test_has_the_route_of_its_rpc(self, method: MethodDescriptor) -> None:
        rule = protos.option(method, annotations_pb2.http)
        verb, path, operation = OPERATIONS[method.name]
        assert verb == rule.WhichOneof("pattern")
        shape = re.compile("{[^}]*}")
        assert shape.sub("{}", path) == shape.sub("{}", getattr(rule, verb))
        assert set(re.findall("{([^}]*)}", path)) == {
            one["name"] for one in operation["parameters"] if one.get("in") == "path"
        }
        assert ("requestBody" in operation) == bool(rule.body)

    def test_asks_for_what_its_policy_asks_for(self, method: MethodDescriptor) -> None:
        policy = read_policies(method.containing_service)[method.name]
        operation = OPERATIONS[method.name][2]
        assert ("Idempotency-Key" in parameters_of(method.name)) == (not policy.read_only)
        assert {"X-Request-Id", "traceparent"} <= parameters_of(method.name)
        assert operation.get("security") == ([{"bearer": []}] if policy.users_only else None)
        assert f"`{policy.permission}`" in operation["description"]

    def test_names_the_errors_that_its_comment_names(self, method: MethodDescriptor) -> None:
        responses = OPERATIONS[method.name][2]["responses"]
        assert {"200", "400", "401", "403", "405", "429", "500", "503", "504"} <= set(responses)
        for status, one in responses.items():
            answer = DOCUMENT["components"]["responses"][one["$ref"].rpartition("/")[2]] if "$ref" in one else one
            assert "X-Request-Id" in answer["headers"]
            if status == "304":
                assert method.name.startswith("Get")
                continue
            streams = method.server_streaming and status == "200"
            assert set(answer["content"]) == {"text/event-stream" if streams else "application/json"}


def test_what_has_an_etag_takes_and_gives_it_as_a_header() -> None:
    with_condition = {name for name in OPERATIONS if "If-Match" in parameters_of(name)}
    assert {"UpdateUser", "DeleteUser", "UndeleteUser", "SuspendUser"} <= with_condition
    assert not {"CreateUser", "GetUser", "ListUsers", "RotateApiKey"} & with_condition
    with_etag = {name for name, (*_, one) in OPERATIONS.items() if "ETag" in one["responses"]["200"]["headers"]}
    assert {"CreateUser", "GetUser", "UpdateUser"} <= with_etag
    assert not {"ListUsers", "CreateApiKey"} & with_etag
    conditional = {name for name in OPERATIONS if "If-None-Match" in parameters_of(name)}
    assert conditional == {name for name in OPERATIONS if name.startswith("Get")}
    assert conditional == {name for name, (*_, one) in OPERATIONS.items() if "304" in one["responses"]}


def test_a_refusal_has_the_headers_that_belong_to_it() -> None:
    shared = DOCUMENT["components"]["responses"]
    assert "WWW-Authenticate" in shared["401"]["headers"]
    assert "Allow" in shared["405"]["headers"]
    assert "Retry-After" in shared["429"]["headers"]
    reasons = DOCUMENT["components"]["schemas"]["ViolationReason"]["enum"]
    assert reasons == [value.name for value in violation_pb2.ViolationReason.DESCRIPTOR.values[1:]]


def test_an_rpc_says_which_error_it_is_by_its_status() -> None:
    taken = OPERATIONS["CreateUser"][2]["responses"]["409"]
    assert taken["$ref"] == "#/components/responses/409"
    assert taken["description"].startswith("ALREADY_EXISTS (EMAIL_TAKEN) if a live user")
    assert taken["description"].endswith("`EMAIL_TAKEN`, `CONCURRENT_UPDATE`, `IDEMPOTENCY_KEY_IN_USE`")
    assert "TOO_MANY_CALLS" in OPERATIONS["GetUser"][2]["responses"]["429"]["description"]
    assert "TOO_MANY_WATCHES" in OPERATIONS["WatchUsers"][2]["responses"]["429"]["description"]


def test_every_refusal_refers_to_a_shared_one() -> None:
    """The document says once what an error looks like."""
    refusals = [one for *_, operation in OPERATIONS.values() for one in operation["responses"].items() if one[0] >= "3"]
    assert {status: one["$ref"].rpartition("/")[2] for status, one in refusals} == {
        status: status for status in DOCUMENT["components"]["responses"]
    }


def test_one_table_says_of_every_reason_what_it_means_and_what_to_do() -> None:
    assert DOCUMENT["tags"][-1]["name"] == "Errors"
    rows = re.findall(r"(?m)^\| `(\w+)` \| ([\d, ]+) \| (.*) \| (.*) \|$", DOCUMENT["tags"][-1]["description"])
    assert [name for name, *_ in rows] == DOCUMENT["components"]["schemas"]["Reason"]["enum"]
    guide = {
        name: set(statuses.split(", "))
        for name, statuses in re.findall(r"(?m)^\| `(\w+)` \| \w+ \| ([\d, ]+) \|", GUIDE.read_text())
    }
    for name, statuses, means, advice in rows:
        assert set(statuses.split(", ")) <= guide[name], name
        assert re.fullmatch(r"[^.]+\.", means), name
        assert re.fullmatch(r"[A-Z][^|]+\.", advice), f"the comment of {name} has no second sentence: what to do"


def test_every_reason_of_the_contract_is_one_of_the_document() -> None:
    reasons = {value.name for enum in protos.enums() if enum.name == "Reason" for value in enum.values[1:]}
    assert set(DOCUMENT["components"]["schemas"]["Reason"]["enum"]) == reasons


def test_a_schema_says_what_the_proto_says() -> None:
    user = DOCUMENT["components"]["schemas"]["User"]
    assert user["required"] == ["id", "tenantId", "displayName", "state", "createdBy", "email"]
    properties = user["properties"]
    assert properties["displayName"].items() >= {"type": "string", "minLength": 1, "maxLength": 200}.items()
    assert properties["email"].items() >= {"format": "email", "maxLength": 254}.items()
    assert properties["roles"].items() >= {"uniqueItems": True, "maxItems": 16}.items()
    assert properties["roles"]["items"]["enum"] == ["viewer", "editor", "operator", "admin"]
    assert properties["labels"]["propertyNames"]["pattern"] == "^[a-z]([a-z0-9_.-]{0,61}[a-z0-9])?$"
    assert [name for name, one in properties.items() if one.get("readOnly")] == [
        *("id", "tenantId", "state", "createTime", "updateTime", "deleteTime", "createdBy")
    ]
    assert DOCUMENT["components"]["schemas"]["User.State"]["enum"] == ["ACTIVE", "SUSPENDED"]
    assert properties["email"]["description"].startswith("The e-mail address; unique")


def test_a_change_requires_no_field_and_takes_the_id_from_the_path() -> None:
    patch = DOCUMENT["components"]["schemas"]["UserPatchBody"]
    assert "required" not in patch
    assert "id" not in patch["properties"]
    assert "updateMask" in parameters_of("UpdateUser")


def test_a_change_within_a_batch_names_what_it_changes() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["UpdateUserRequest"]["properties"]["user"]["$ref"] == "#/components/schemas/UserPatch"
    assert schemas["UserPatch"]["required"] == ["id"]
    assert "readOnly" not in schemas["UserPatch"]["properties"]["id"]
    assert (
        schemas["BatchUpdateUsersRequest"]["properties"]["requests"].items() >= {"minItems": 1, "maxItems": 100}.items()
    )
    body = OPERATIONS["BatchUpdateUsers"][2]["requestBody"]["content"]["application/json"]
    assert body["example"]["requests"][0]["user"]["id"]
    (ids,) = (one for one in OPERATIONS["BatchGetUsers"][2]["parameters"] if one.get("name") == "ids")
    assert ids["required"]


def test_a_rule_without_a_form_stops_the_generator() -> None:
    """Or the document would stay silent about it."""
    options = descriptor_pb2.FieldOptions()
    options.Extensions[validate_pb2.field].string.ipv4 = True
    file = descriptor_pb2.FileDescriptorProto(name="x.proto", package="x", syntax="proto3")
    file.message_type.add(name="X").field.add(name="address", number=1, label=1, type=9, options=options)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    with pytest.raises(SystemExit, match=r"x\.X\.address has the rule string\.ipv4"):
        Schemas().message(pool.FindMessageTypeByName("x.X"))


def test_the_page_states_the_limits_of_the_code() -> None:
    (items,) = {
        protos.option(field, validate_pb2.field).repeated.max_items
        for method in ROUTED
        if method.name.startswith("Batch")
        for field in method.input_type.fields
        if field.is_repeated
    }
    (headers,) = re.findall(r"(?m)^local MAX_BYTES = (\d+)$", (ENVOY / "lua" / "transport.lua").read_text())
    # A frame of gRPC has five bytes more.
    buffered = re.findall(r"max_request_bytes: (\d+)", (ENVOY / "envoy.yaml").read_text())
    message, request = min(map(int, buffered)) // 1024**2, int(headers) // 1024
    limits = (
        f"A message holds up to {message} MiB, the headers of a request {request} KiB, a batch {items} items, "
        f"a page {MAX_PAGE_SIZE:,} resources."
    )
    assert limits in DOCUMENT["info"]["description"]


@pytest.mark.parametrize("message", protos.resources(), ids=lambda message: message.full_name)
def test_a_resource_declares_an_example(message: Descriptor) -> None:
    assert message in EXAMPLES, "add `option (ameide.common.v1.example)`"


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.full_name)
def test_an_example_is_what_a_client_may_send(message: Descriptor) -> None:
    text = message.GetOptions().Extensions[example_pb2.example]
    parsed = json_format.Parse(text, GetMessageClass(message)())
    assert (
        json_format.MessageToDict(parsed, always_print_fields_with_no_presence=True).items() >= json.loads(text).items()
    )
    protovalidate.validate(parsed)
    # What the server sets is in the answers, which are recorded.
    set_by_us = {field.json_name for field in message.fields if has_behavior(field, "OUTPUT_ONLY")}
    assert not ({"etag"} | set_by_us) & json.loads(text).keys()
