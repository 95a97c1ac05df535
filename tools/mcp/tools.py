"""One tool for each operation that answers once, as `tools/list` shows it and as Envoy's bridge calls it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from api_common.errors import json_path

from tools.contract.descriptors import snake

Json = dict[str, Any]

# What these verbs do can be taken back, or takes nothing away; "" is POST to a collection.
_ADDITIVE: Final = {"", "activate", "batchCreate", "deploy", "enable", "publish", "resume", "undelete"}
# A model reads all of this before each answer. Types and rules stay; what it cannot send, or need not know, goes.
_DROPPED: Final = {"title", "example", "examples", "readOnly", "contentEncoding", "uniqueItems", "$ref"}
_INT32: Final = {"format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
# What remains of an item of a batch: its rules stand where one is made.
_SHAPE: Final = {"type", "properties", "required", "items", "additionalProperties", "enum"}
_MOST_CHARACTERS: Final = 120
_SENTENCE: Final = re.compile(r"(?<=\.)\s+(?=[A-Z`])")
_HEADERS: Final[dict[str, tuple[str, int, str]]] = {
    "Idempotency-Key": ("idempotencyKey", 255, "Makes the call safe to repeat: one key has one effect."),
    "If-Match": ("ifMatch", 64, "The etag that you read: refuses to overwrite a change of others."),
}


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
    def needed(self) -> Json:
        """The arguments without which the bridge makes no request, and where it puts each."""
        path, body = next(iter(self.rule.values())), self.rule.get("body", "*")
        return dict.fromkeys(re.findall(r"{(\w+)}", path), "path") | ({} if body == "*" else {body: "body"})

    @property
    def read_only(self) -> bool:
        return bool(self.listed["annotations"]["readOnlyHint"])


def tools(document: Json) -> list[Tool]:
    """Returns the tools of an OpenAPI document: streams are none, because a call has one answer."""
    operations = [(verb, path, one) for path, verbs in document["paths"].items() for verb, one in verbs.items()]
    names = {one["operationId"]: snake(one["operationId"]) for _, _, one in operations}
    return [
        _tool(verb, path, one, names, document["components"]["schemas"])
        for verb, path, one in operations
        if "text/event-stream" not in one["responses"]["200"]["content"]
    ]


def endpoints(found: list[Tool]) -> Iterator[tuple[str, list[Tool]]]:
    """Yields each endpoint and its tools: all, those that only read, those of each collection."""
    yield "/mcp", found
    yield "/mcp/readonly", [tool for tool in found if tool.read_only]
    for collection in dict.fromkeys(tool.collection for tool in found):
        yield f"/mcp/{collection}", [tool for tool in found if tool.collection == collection]


def _tool(verb: str, path: str, operation: Json, names: dict[str, str], schemas: Json) -> Tool:
    name, (tag,) = operation["operationId"], operation["tags"]
    single = names.get(name.removeprefix("Batch")[:-1]) if name.startswith("Batch") else None
    schema, rule = _arguments(operation, schemas, single)
    about, _, ending = operation["description"].partition("\n\nRequires the permission")
    # What is behind the permission says when a deprecated operation ends.
    text = " ".join((*_SENTENCE.split(about)[:2], *ending.split("\n\n")[1:]))
    if single:
        text += f" For several at once: {single} takes one."
    elif name.startswith("List") and (one := names.get(f"Get{name[4:-1]}")):
        text += f" To find some: {one} reads one whose id you know."
    text = re.sub(r"\b[A-Z]\w+\b", lambda word: names.get(word[0], word[0]), text)
    reads = not any("Idempotency-Key" in one.get("$ref", "") for one in operation["parameters"])
    additive = verb == "post" and path.rpartition("/")[2].partition(":")[2] in _ADDITIVE
    listed = {
        "name": names[name],
        "title": names[name].replace("_", " ").capitalize(),
        "description": _in_json(text),
        "inputSchema": schema,
        "annotations": {
            "readOnlyHint": reads,
            "destructiveHint": not (reads or additive),
            "idempotentHint": reads or verb in {"patch", "delete"},
            "openWorldHint": False,
        },
    }
    return Tool(f"{tag[0].lower()}{tag[1:]}s", listed, {verb: path} | rule)


def _arguments(operation: Json, schemas: Json, single: str | None) -> tuple[Json, Json]:
    """Returns the schema of the arguments, and what the `HttpRule` says besides verb and path.

    Args:
        single: the tool whose arguments each item of a batch has; its fields are described there.
    """
    properties: Json = {}
    required, bindings = [], []
    for one in operation["parameters"]:
        if header := _HEADERS.get(one.get("$ref", "").rpartition("/")[2]):
            name, longest, text = header
            properties[name] = {"type": "string", "maxLength": longest, "description": text}
            bindings.append({"type": "HEADER", "name": one["$ref"].rpartition("/")[2].lower(), "argument_path": name})
        elif "name" in one:
            properties[one["name"]] = _small(one["schema"] | {"description": one["description"]}, schemas)
            required += [one["name"]] if one.get("required") else []
    rule: Json = {"bindings": bindings} if bindings else {}
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]["schema"]
        schema = _small(content, schemas, described=not single)
        # The body is the whole request, or a resource: `user` for `User` and `UserPatchBody`.
        resource = re.sub("(Patch)?(Body)?$", "", content["$ref"].rpartition("/")[2])
        rule["body"] = body = "*" if resource.endswith("Request") else resource[0].lower() + resource[1:]
        if body != "*":
            del schema["description"]
            schema["properties"].pop("etag", None)
            schema = {"properties": {body: schema}, "required": [body]}
        properties = schema["properties"] | properties
        required += schema.get("required", [])
        if single:
            properties["requests"]["description"] = f"Each is as the arguments of {single}."
    # `ifMatch` is the one way to say it.
    properties.pop("etag", None)
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {}), rule


def _small(schema: Json, schemas: Json, *, described: bool = True) -> Json:
    """Returns the schema without references and without what a caller does not send."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]] | schema
    small: Json = {}
    for key, value in schema.items():
        if key in _DROPPED or _INT32.get(key) == value or not (described or key in _SHAPE):
            continue
        if key == "description":
            # Filters and orders (AIP-160, AIP-132) name fields as the protos do.
            small[key] = _short(value if "AIP-1" in value else _in_json(value))
        elif key == "properties":
            sent = {name: inner for name, inner in value.items() if not inner.get("readOnly")}
            small[key] = {name: _small(inner, schemas, described=described) for name, inner in sent.items()}
        elif isinstance(value, dict):
            small[key] = _small(value, schemas, described=described)
        else:
            small[key] = value
    if "required" in small:
        small["required"] = [name for name in small["required"] if name in small["properties"]]
    return {key: value for key, value in small.items() if value != []}


def _short(text: str) -> str:
    """Returns the first sentence, and those after it that are as short."""
    first, *others = _SENTENCE.split(text)
    for sentence in others:
        if len(first) + len(sentence) > _MOST_CHARACTERS:
            break
        first += f" {sentence}"
    return first


def _in_json(text: str) -> str:
    """Returns ``text`` with the names of fields as JSON has them."""
    return re.sub(r"`[a-z]+(_[a-z]+)+`", lambda name: json_path(name[0]), text)
