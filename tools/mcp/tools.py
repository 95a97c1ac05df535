"""One tool for each RPC that answers once, as `tools/list` shows it and as Envoy's bridge calls it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from api_common.contract import read_policies
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

from tools.clients.api import snake
from tools.contract.descriptors import has_route, methods_of, public_services, text_of
from tools.mcp.arguments import Arguments, Json, in_json

# What these verbs do can be taken back, or takes nothing away; "" is POST to a collection.
_ADDITIVE: Final = {"", "activate", "batchCreate", "deploy", "enable", "publish", "resume", "undelete"}
_SENTENCES: Final = 2


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool."""

    collection: str
    """The collection that its service owns, as in `/mcp/users`."""
    listed: Json
    """What `tools/list` says of it."""
    rule: Json
    """The REST request that the bridge makes of a call: an `HttpRule`."""

    @property
    def name(self) -> str:
        return str(self.listed["name"])

    @property
    def read_only(self) -> bool:
        return bool(self.listed["annotations"]["readOnlyHint"])


def tools(described: Json) -> list[Tool]:
    """Returns a tool for each RPC with a route, but for streams: a call of a tool has one answer.

    Args:
        described: the OpenAPI document.
    """
    operations = {
        operation["operationId"]: (verb, path, operation)
        for path, verbs in described["paths"].items()
        for verb, operation in verbs.items()
    }
    names = {name: snake(name) for name in operations}
    arguments = Arguments(described["components"])
    found = []
    for service in public_services():
        noun = service.name.removesuffix("Service")
        policies = read_policies(service)
        for method in filter(has_route, methods_of(service)):
            if not method.server_streaming:
                verb, path, operation = operations[method.name]
                body = cast(Any, method.GetOptions()).Extensions[annotations_pb2.http].body
                schema, rule = arguments.of(operation, body, single=_single(method.name, names))
                listed = {
                    "name": names[method.name],
                    "title": names[method.name].replace("_", " ").capitalize(),
                    "description": _description(method, names),
                    "inputSchema": schema,
                    "annotations": _annotations(method, verb, path, read_only=policies[method.name].read_only),
                }
                found.append(Tool(f"{noun[0].lower()}{noun[1:]}s", listed, {verb: path} | rule))
    return found


def _description(method: MethodDescriptor, names: dict[str, str]) -> str:
    """Returns the first sentences of the comment, with the names that a model sees, and which tool is for less."""
    comment = text_of(method.full_name).partition("Errors: ")[0]
    text = " ".join(re.split(r"(?<=\.)\s+", comment.strip())[:_SENTENCES])
    if single := _single(method.name, names):
        text += f" For several at once: {single} takes one."
    elif method.name.startswith("List") and (one := names.get(f"Get{method.name[4:-1]}")):
        text += f" To find some: {one} reads one whose id you know."
    text = re.sub(r"\b[A-Z]\w+\b", lambda word: names.get(word[0], word[0]), text)
    return in_json(text)


def _single(name: str, names: dict[str, str]) -> str | None:
    """Returns the tool that does to one what a batch does to several."""
    return names.get(name.removeprefix("Batch")[:-1]) if name.startswith("Batch") else None


def _annotations(method: MethodDescriptor, verb: str, path: str, *, read_only: bool) -> Json:
    custom_verb = path.rpartition("/")[2].partition(":")[2]
    additive = verb == "post" and custom_verb in _ADDITIVE
    repeatable = method.GetOptions().idempotency_level == MethodOptions.IDEMPOTENT or verb in {"patch", "delete"}
    return {
        "readOnlyHint": read_only,
        "destructiveHint": not read_only and not additive,
        "idempotentHint": read_only or repeatable,
        "openWorldHint": False,
    }


def endpoints(found: list[Tool]) -> Iterator[tuple[str, list[Tool]]]:
    """Yields each endpoint and its tools: all, those that only read, those of each collection."""
    yield "/mcp", found
    yield "/mcp/readonly", [tool for tool in found if tool.read_only]
    for collection in dict.fromkeys(tool.collection for tool in found):
        yield f"/mcp/{collection}", [tool for tool in found if tool.collection == collection]
