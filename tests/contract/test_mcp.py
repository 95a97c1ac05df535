"""The tools that AI agents see, as `make proto` makes them, judged as a model would use them."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from jsonschema_rs import meta

from tests.protos import public_methods
from tools.contract.descriptors import snake
from tools.edge.build import GENERATED
from tools.mcp.tools import endpoints, tools
from tools.openapi import document

TOOLS: Final = {tool.name: tool for tool in tools(document.build())}
ENDPOINTS: Final = dict(endpoints(list(TOOLS.values())))
MOST_BYTES: Final = {"/mcp": 66_000, "/mcp/readonly": 15_500}
MOST_BYTES_OF_A_COLLECTION: Final = 16_500
RPCS: Final = {one.name for one in public_methods()}
tool = pytest.mark.parametrize("name", TOOLS)


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yields every object in a schema."""
    if isinstance(schema, dict):
        yield schema
        for inner in schema.values():
            yield from parts(inner)


def test_every_rpc_that_answers_once_is_a_tool_and_says_what_it_may_do() -> None:
    answering = {snake(one.name): one.GetOptions() for one in public_methods() if not one.server_streaming}
    assert {name: one.read_only for name, one in TOOLS.items()} == {
        name: options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS for name, options in answering.items()
    }
    hints = {name: one.listed["annotations"] for name, one in TOOLS.items()}
    assert not any(one["destructiveHint"] for one in hints.values() if one["readOnlyHint"])
    assert all(one["idempotentHint"] for one in hints.values() if one["readOnlyHint"])
    for name in ("update_user", "delete_agent", "batch_delete_ipas", "archive_workflow", "revoke_api_key"):
        assert hints[name]["destructiveHint"], name
    for name in ("create_user", "batch_create_users", "undelete_user", "publish_workflow", "get_me"):
        assert not hints[name]["destructiveHint"], name
    assert hints["update_user"]["idempotentHint"]
    assert not hints["create_user"]["idempotentHint"]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_an_endpoint_keeps_to_its_budget(path: str) -> None:
    content = (GENERATED / path[1:] / "tools.json").read_bytes()
    assert len(content) <= MOST_BYTES.get(path, MOST_BYTES_OF_A_COLLECTION)
    assert [one["name"] for one in json.loads(content)["tools"]] == [one.name for one in ENDPOINTS[path]]


def test_every_tool_is_on_the_endpoint_of_its_collection() -> None:
    collections = {"/mcp/users", "/mcp/serviceAccounts", "/mcp/workflows", "/mcp/agents", "/mcp/ipas"}
    assert set(ENDPOINTS) == {"/mcp", "/mcp/readonly", *collections}
    assert {one.name for path in collections for one in ENDPOINTS[path]} == set(TOOLS)


@tool
def test_its_description_is_short_and_names_what_a_model_sees(name: str) -> None:
    text = TOOLS[name].listed["description"]
    assert 10 < len(text) <= 300
    assert not set(re.findall(r"\w+", text)) & RPCS
    assert not re.search(r"`\w+_\w+`", text)


@tool
def test_its_arguments_are_a_schema_of_what_a_caller_sends(name: str) -> None:
    schema = TOOLS[name].listed["inputSchema"]
    meta.validate(schema)
    assert schema["additionalProperties"] is False
    for part in parts(schema):
        assert not {"readOnly", "example", "examples", "$ref"} & part.keys()
        assert set(part.get("required", ())) <= part.get("properties", {}).keys()
    assert not {"tenantId", "createTime"} & {key for part in parts(schema) for key in part.get("properties", ())}


@tool
def test_whatever_its_path_names_is_required(name: str) -> None:
    found = TOOLS[name]
    (path,) = (found.rule[verb] for verb in ("get", "post", "patch", "delete") if verb in found.rule)
    needed = {*re.findall(r"{(\w+)}", path), *([found.rule["body"]] if found.rule.get("body", "*") != "*" else [])}
    assert needed <= set(found.listed["inputSchema"].get("required", ()))


@tool
def test_its_headers_are_arguments(name: str) -> None:
    found = TOOLS[name]
    bound = {one["argument_path"]: one["name"] for one in found.rule.get("bindings", ())}
    properties = found.listed["inputSchema"]["properties"]
    assert bound == {key: header for key, header in HEADERS.items() if key in properties}
    assert ("idempotencyKey" in bound) is not found.read_only
    # One way to say it: a batch has an etag in each item.
    assert not {"etag", "ifMatch"} <= properties.keys()


HEADERS: Final = {"idempotencyKey": "idempotency-key", "ifMatch": "if-match"}


def test_a_batch_says_which_tool_takes_one_and_a_list_which_reads_one() -> None:
    batch = TOOLS["batch_create_users"].listed
    assert "create_user takes one" in batch["description"]
    assert batch["inputSchema"]["properties"]["requests"]["description"] == "Each is as the arguments of create_user."
    assert "get_user reads one" in TOOLS["list_users"].listed["description"]
