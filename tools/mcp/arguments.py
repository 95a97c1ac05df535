"""The arguments of a tool: parameters and body of the operation, as one small JSON Schema, and where each goes."""

import re
from typing import Any, Final

Json = dict[str, Any]

# A model reads all of this before each answer. Types and rules stay; what it cannot send, or need not know, goes.
_DROPPED: Final = {"title", "example", "examples", "readOnly", "contentEncoding", "uniqueItems", "$ref"}
# What remains of an item of a batch: its rules stand where one is made.
_SHAPE: Final = {"type", "properties", "required", "items", "additionalProperties", "enum"}
_MOST_CHARACTERS: Final = 120
_INT32: Final = {"format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_HEADERS: Final[dict[str, tuple[str, str, Json]]] = {
    "Idempotency-Key": (
        "idempotencyKey",
        "idempotency-key",
        {"type": "string", "maxLength": 255, "description": "Makes the call safe to repeat: one key has one effect."},
    ),
    "If-Match": (
        "ifMatch",
        "if-match",
        {"type": "string", "description": "The etag that you read: refuses to overwrite a change of others."},
    ),
}


class Arguments:
    """Makes the arguments of operations of one OpenAPI document."""

    def __init__(self, components: Json) -> None:
        self._components = components

    def of(self, operation: Json, body: str, *, single: str | None) -> tuple[Json, Json]:
        """Returns the schema, and what the bridge's `HttpRule` says besides verb and path.

        Args:
            body: the field of the request that is the body of the REST request; `*` means all that the path lacks.
            single: the tool whose arguments each item of a batch has; its fields are described there.
        """
        properties: Json = {}
        required: list[str] = []
        bindings = []
        for parameter in operation["parameters"]:
            if "$ref" in parameter:
                if known := _HEADERS.get(parameter["$ref"].rpartition("/")[2]):
                    name, header, properties[known[0]] = known
                    bindings.append({"type": "HEADER", "name": header, "argument_path": name})
            else:
                described = parameter["schema"] | {"description": parameter["description"]}
                properties[parameter["name"]] = self._small(described)
                required += [parameter["name"]] if parameter.get("required") else []
        rule: Json = {"bindings": bindings} if bindings else {}
        if body:
            content = operation["requestBody"]["content"]["application/json"]["schema"]
            schema = self._small(content, described=not single)
            rule["body"] = "*"
            if body != "*":
                rule["body"] = name = json_name(body)
                schema.pop("description", None)
                schema = {"properties": {name: schema}, "required": [name]}
            properties = schema["properties"] | properties
            required += schema.get("required", [])
            if single:
                (items,) = (name for name, value in schema["properties"].items() if value["type"] == "array")
                properties[items]["description"] = f"Each is as the arguments of {single}."
        # `ifMatch` is the one way to say it, and what is new has none.
        properties.pop("etag", None)
        properties.get(rule.get("body", ""), {}).get("properties", {}).pop("etag", None)
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({"required": required} if required else {}), rule

    def _small(self, schema: Json, *, described: bool = True) -> Json:
        """Returns the schema without references and without what a caller does not send."""
        if "$ref" in schema:
            schema = self._components["schemas"][schema["$ref"].rpartition("/")[2]] | schema
        small: Json = {}
        for key, value in schema.items():
            if key in _DROPPED or _INT32.get(key) == value or not (described or key in _SHAPE):
                continue
            if key == "description":
                # Filters and orders (AIP-160, AIP-132) name fields as the protos do.
                small[key] = _short(value if "AIP-1" in value else in_json(value))
            elif key == "properties":
                sent = {name: inner for name, inner in value.items() if not inner.get("readOnly")}
                small[key] = {name: self._small(inner, described=described) for name, inner in sent.items()}
            elif isinstance(value, dict):
                small[key] = self._small(value, described=described)
            elif key == "anyOf":
                small[key] = [self._small(inner, described=described) for inner in value]
            else:
                small[key] = value
        if "required" in small:
            small["required"] = [name for name in small["required"] if name in small["properties"]]
        return {key: value for key, value in small.items() if value != []}


def _short(text: str) -> str:
    """Returns the first sentence, and those after it that are as short."""
    first, *others = re.split(r"(?<=\.)\s+(?=[A-Z`])", text)
    for sentence in others:
        if len(first) + len(sentence) > _MOST_CHARACTERS:
            break
        first += f" {sentence}"
    return first


def in_json(text: str) -> str:
    """Returns ``text`` with the names of fields as JSON has them."""
    return re.sub(r"(?<=`)[a-z]+(_[a-z]+)+(?=`)", lambda name: json_name(name[0]), text)


def json_name(name: str) -> str:
    """Returns `displayName` for `display_name`."""
    return re.sub("_([a-z])", lambda letter: letter[1].upper(), name)
