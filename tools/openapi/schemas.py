"""Messages, enums and `buf.validate` rules as JSON Schema, the dialect of OpenAPI 3.1."""

import json
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, Final, cast

from ameide.common.v1 import example_pb2
from api_common.contract import has_behavior
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from tools.contract.descriptors import text_of

Json = dict[str, Any]

ANSWERS: Final = Path(__file__).with_name("answers.json")
"""An answer of each operation, by its name, and some refusals, by their reasons; `make answers` records them."""
RECORDED: Final[Json] = json.loads(ANSWERS.read_text())

_INT32: Final = {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1}
_SCALARS: Final[dict[int, Json]] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}
_WELL_KNOWN: Final[dict[str, Json]] = {
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
}
_KEYWORDS: Final = {
    ("string", "in"): "enum",
    ("string", "max_len"): "maxLength",
    ("string", "min_len"): "minLength",
    ("string", "pattern"): "pattern",
    # A text never has more characters than bytes; the comment states the exact limit.
    ("string", "max_bytes"): "maxLength",
    ("int32", "gte"): "minimum",
    ("int32", "lte"): "maximum",
    ("repeated", "min_items"): "minItems",
    ("repeated", "max_items"): "maxItems",
    ("repeated", "unique"): "uniqueItems",
    ("map", "min_pairs"): "minProperties",
    ("map", "max_pairs"): "maxProperties",
}
_SOME_ID: Final = "019b7b1c-52ce-7c1e-8a54-3f6d2b9e4c10"
_LEAST: Final = {"string": "minLength", "array": "minItems"}
_FORMATS: Final = {("string", "uuid"): "uuid", ("string", "email"): "email", ("string", "uri"): "uri"}
_WITHIN: Final = {
    ("repeated", "items"): "items",
    ("map", "keys"): "propertyNames",
    ("map", "values"): "additionalProperties",
}
# JSON Schema cannot express the first; the others follow from the listed values, which never include zero.
_LEFT_TO_COMMENTS: Final = {("timestamp", "gt_now"), ("enum", "defined_only"), ("enum", "not_in")}


class Schemas:
    """Collects the components of a document while its parts ask for them."""

    def __init__(self) -> None:
        self.components: dict[str, Json] = {}
        self._owners: dict[str, str] = {}

    def message(self, message: Descriptor, *, partial: bool = False, without: Set[str] = frozenset()) -> Json:
        """Returns a reference to the schema of ``message``.

        Args:
            partial: whether a field mask chooses among the fields: only the id is required then.
            without: fields that are in the path instead.
        """
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        if message.full_name == "google.rpc.Status":
            return {"$ref": "#/components/schemas/Error"}
        name = f"{_short(message)}{'Patch' if partial else ''}{'Body' if without else ''}"
        if self._is_new(name, message.full_name):
            component: Json = {"title": name, "type": "object"} | described(message.full_name)
            # Registered before its fields, because a message may contain itself.
            self.components[name] = component
            fields = [field for field in message.fields if field.name not in without]
            # An update chooses among the fields of a resource, so there none of them is required.
            chooses = any(field.name == "update_mask" for field in fields)
            properties = {field.json_name: self._property(field, named=partial, partial=chooses) for field in fields}
            needed = _is_identifier if partial else _is_always_there
            required = [field.json_name for field in fields if needed(field)]
            component["properties"] = properties
            if required:
                component["required"] = required
        return {"$ref": f"#/components/schemas/{name}"}

    def _property(self, field: FieldDescriptor, *, named: bool, partial: bool) -> Json:
        schema = self.value(field, partial=partial) | described(field.full_name)
        if has_behavior(field, "OUTPUT_ONLY") and not (named and _is_identifier(field)):
            schema["readOnly"] = True
        return schema

    def value(self, field: FieldDescriptor, *, partial: bool = False) -> Json:
        """Returns the schema of the value of ``field``, by its type and its rules."""
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            schema: Json = {"type": "object", "additionalProperties": self._of_type(entry, partial=partial)}
        elif field.is_repeated:
            schema = {"type": "array", "items": self._of_type(field, partial=partial)}
        else:
            schema = self._of_type(field, partial=partial)
        if has_behavior(field, "REQUIRED") and schema.get("type") in _LEAST:
            # Without presence, empty is the same as absent.
            schema[_LEAST[schema["type"]]] = 1
        rules = cast(Any, field.GetOptions()).Extensions[validate_pb2.field]
        _constrain(schema, rules, field.full_name)
        is_there = _is_identifier(field) or has_behavior(field, "REQUIRED")
        if "format" in schema and not is_there and rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
            schema["anyOf"] = [{"format": schema.pop("format")}, {"const": ""}]
        return schema

    def enum(self, enum: EnumDescriptor) -> Json:
        """Returns a reference to the schema of ``enum``, without its zero value."""
        name = _short(enum)
        if self._is_new(name, enum.full_name):
            values = {value.name: text_of(f"{enum.full_name}.{value.name}") for value in enum.values[1:]}
            self.components[name] = enum_schema(name, text_of(enum.full_name), values)
        return {"$ref": f"#/components/schemas/{name}"}

    def _of_type(self, field: FieldDescriptor, *, partial: bool) -> Json:
        if field.message_type is not None:
            return self.message(field.message_type, partial=partial)
        if field.enum_type is not None:
            return self.enum(field.enum_type)
        return dict(_SCALARS[field.type])

    def _is_new(self, name: str, full_name: str) -> bool:
        if self._owners.setdefault(name, full_name) != full_name:
            raise SystemExit(f"{full_name} and {self._owners[name]} would both be `{name}` in the OpenAPI document")
        return name not in self.components


def enum_schema(name: str, comment: str, values: Mapping[str, str]) -> Json:
    """Returns the schema of a text that is one of ``values``, whose meanings they map to."""
    meanings = [f"- `{value}`: {meaning}" for value, meaning in values.items()]
    description = "\n".join([comment, "", *meanings])
    return {"title": name, "type": "string", "enum": list(values), "description": description}


def example(message: Descriptor, *, without: Set[str] = frozenset(), named: bool = False) -> Json:
    """Returns what a client may send: the example of ``message``, or its required fields; each message has its own.

    Args:
        without: fields that are in the path instead.
        named: whether to show the id, which names what is changed.
    """
    declared = _declared(message)
    changes = "update_mask" in message.fields_by_name
    found: Json = {}
    for field in message.fields:
        shown = named and _is_identifier(field)
        hidden = (has_behavior(field, "OUTPUT_ONLY") or field.name == "etag") and not shown
        if hidden or field.name in without:
            continue
        needed = not (declared or has_behavior(field, "OPTIONAL"))
        if field.json_name in declared:
            found[field.json_name] = declared[field.json_name]
        elif shown or needed or (field.message_type and _declared(field.message_type)):
            found[field.json_name] = _example_of(field, named=changes)
    return found


def described(full_name: str) -> Json:
    """Returns the comment as a `description`, if there is one."""
    text = text_of(full_name)
    return {"description": text} if text else {}


def _is_identifier(field: FieldDescriptor) -> bool:
    return has_behavior(field, "IDENTIFIER")


def _is_always_there(field: FieldDescriptor) -> bool:
    """Returns whether clients must send the field, or the edge always sends it: it prints fields without presence."""
    may_lack = field.has_presence or has_behavior(field, "OPTIONAL") or has_behavior(field, "INPUT_ONLY")
    return has_behavior(field, "REQUIRED") or not may_lack


def _declared(message: Descriptor) -> Json:
    declared: Json = json.loads(cast(Any, message.GetOptions()).Extensions[example_pb2.example] or "{}")
    return declared


def _example_of(field: FieldDescriptor, *, named: bool) -> Any:
    if field.message_type is not None:
        one: Any = example(field.message_type, named=named)
    elif field.enum_type is not None:
        one = field.enum_type.values[1].name
    elif cast(Any, field.GetOptions()).Extensions[validate_pb2.field].string.uuid:
        one = _SOME_ID
    elif field.type == field.TYPE_STRING and has_behavior(field, "REQUIRED"):
        one = field.name.replace("_", " ").capitalize()
    else:
        one = field.default_value
    return [one] if field.is_repeated else one


def _constrain(schema: Json, rules: validate_pb2.FieldRules, name: str) -> None:
    """Adds ``rules`` to ``schema``. One that is not known here stops the generator; comments say those of CEL."""
    kind = rules.WhichOneof("type")
    if {field.name for field, _ in rules.ListFields()} - {kind, "ignore", "cel"}:
        raise SystemExit(f"{name} has a rule that tools/openapi/schemas.py cannot express: {rules}")
    for field, value in getattr(rules, kind).ListFields() if kind else ():
        rule = (kind, field.name)
        if rule in _KEYWORDS:
            schema[_KEYWORDS[rule]] = list(value) if field.is_repeated else value
        elif rule in _FORMATS:
            schema["format"] = _FORMATS[rule]
        elif rule in _WITHIN:
            _constrain(schema.setdefault(_WITHIN[rule], {}), value, name)
        elif rule not in _LEFT_TO_COMMENTS:
            raise SystemExit(f"{name} has the rule {kind}.{field.name}, which tools/openapi/schemas.py cannot express")


def _short(described: Descriptor | EnumDescriptor) -> str:
    return described.full_name.removeprefix(f"{described.file.package}.")
