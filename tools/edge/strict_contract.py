"""The contract as `strict.lua` reads it, to refuse what no RPC takes (ADR 16)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

_T: Final = FieldDescriptorProto
_HTTP: Final[Any] = annotations_pb2.http
_SCALARS: Final[dict[int, str]] = {
    _T.TYPE_STRING: "text",
    _T.TYPE_BYTES: "text",
    _T.TYPE_BOOL: "bool",
    _T.TYPE_FLOAT: "number",
    _T.TYPE_DOUBLE: "number",
    **{value: "integer" for name, value in _T.Type.items() if "INT" in name or "FIXED" in name},
}
# Messages whose JSON is not an object of their fields.
_WELL_KNOWN: Final = {
    "google.protobuf.Timestamp": "text",
    "google.protobuf.Duration": "text",
    "google.protobuf.FieldMask": "text",
    "google.protobuf.Struct": "struct",
    "google.protobuf.Value": "any",
    "google.protobuf.ListValue": "array",
    "google.protobuf.StringValue": "text",
    "google.protobuf.BytesValue": "text",
    "google.protobuf.BoolValue": "bool",
    "google.protobuf.Int32Value": "integer",
    "google.protobuf.Int64Value": "integer",
    "google.protobuf.UInt32Value": "integer",
    "google.protobuf.UInt64Value": "integer",
    "google.protobuf.FloatValue": "number",
    "google.protobuf.DoubleValue": "number",
}


def contract(descriptors: FileDescriptorSet) -> dict[str, Any]:
    """Returns what every RPC with a route takes: `types` by name, and `routes` as a tree of path segments.

    A node has its literal segments by name, the node of a variable under 2, and under 1 the routes that end there, by
    custom verb.
    """
    found = _Contract(descriptors)
    routes: dict[Any, Any] = {}
    for file in descriptors.file:
        for service in file.service:
            for method in service.method:
                found.add_route(routes, f".{file.package}.", method)
    return {"types": found.types, "routes": routes}


def lua(value: Any) -> str:
    """Returns ``value`` as an expression of Lua."""
    if isinstance(value, Mapping):
        members = (f"[{lua(key)}] = {lua(inner)}" for key, inner in value.items())
        return f"{{{', '.join(members)}}}"
    # JSON and Lua write plain text, numbers, true and false alike.
    return json.dumps(value)


class _Contract:
    def __init__(self, descriptors: FileDescriptorSet) -> None:
        self._messages: dict[str, DescriptorProto] = {}
        self._enums: dict[str, EnumDescriptorProto] = {}
        self.types: dict[str, dict[str, Any]] = {}
        """The messages and enums in request bodies."""
        for file in descriptors.file:
            self._index(f".{file.package}", file.message_type, file.enum_type)

    def _index(self, scope: str, messages: Any, enums: Any) -> None:
        self._enums |= {f"{scope}.{one.name}": one for one in enums}
        for one in messages:
            self._messages[f"{scope}.{one.name}"] = one
            self._index(f"{scope}.{one.name}", one.nested_type, one.enum_type)

    def add_route(self, routes: dict[Any, Any], scope: str, method: MethodDescriptorProto) -> None:
        """Puts the route of ``method`` into the tree.

        Raises:
            ValueError: the route uses what `strict.lua` does not know.
        """
        rule: Any = method.options.Extensions[_HTTP]
        verb = rule.WhichOneof("pattern")
        if verb is None:
            return
        if rule.additional_bindings or rule.response_body or verb == "custom":
            raise ValueError(f"{scope[1:]}{method.name}: strict.lua knows one plain route per RPC")
        path, _, custom_verb = getattr(rule, verb).partition(":")
        node = routes.setdefault(verb.upper(), {})
        variables = []
        for segment in path[1:].split("/"):
            if segment.startswith("{"):
                variables.append(segment[1:-1])
            node = node.setdefault(2 if segment.startswith("{") else segment, {})
        request = method.input_type
        whole = rule.body == "*"
        taken = {rule.body, *(name.partition(".")[0] for name in variables)}
        route: dict[str, Any] = {"query": {} if whole else dict(self._parameters(request, taken))}
        if rule.body:
            body = request if whole else self._field(request, rule.body).type_name
            names = {field.name for field in self._messages[body].field}
            leaves = [name.rpartition(".")[2] for name in variables]
            route["body"] = {
                "prefix": "" if whole else rule.body,
                "type": self._add_type(body),
                # Fields that the body may repeat if they equal the path.
                "bound": {leaf: number for number, leaf in enumerate(leaves, 1) if leaf in names},
            }
        node.setdefault(1, {})[custom_verb] = route

    def _field(self, message: str, name: str) -> FieldDescriptorProto:
        return next(field for field in self._messages[message].field if field.name == name)

    def _parameters(self, message: str, taken: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the fields that are query parameters, under both spellings of their names."""
        for field in self._messages[message].field:
            if field.name in taken:
                continue
            kind = _SCALARS.get(field.type) or _WELL_KNOWN.get(field.type_name[1:])
            if kind not in _SCALARS.values() and field.type != _T.TYPE_ENUM:
                raise ValueError(f"{message[1:]}.{field.name}: no query parameter is a message")
            parameter = {"name": field.name, "kind": kind or "enum", "many": field.label == _T.LABEL_REPEATED}
            yield field.name, parameter
            yield field.json_name, parameter

    def _add_type(self, name: str) -> str:
        """Adds a message or an enum, and the types of its fields, to the types."""
        if name[1:] in self.types:
            return name[1:]
        fields: dict[str, Any] = {}
        self.types[name[1:]] = {"fields": fields} if name in self._messages else {}
        if name in self._enums:
            self.types[name[1:]]["values"] = {value.name: True for value in self._enums[name].value}
            return name[1:]
        for field in self._messages[name].field:
            form, value = "one", field
            if field.label == _T.LABEL_REPEATED:
                form = "list"
                entry = self._messages.get(field.type_name)
                if entry is not None and entry.options.map_entry:
                    form, value = "map", entry.field[1]
            fields[field.name] = fields[field.json_name] = {"name": field.name, "form": form, "kind": self._kind(value)}
        return name[1:]

    def _kind(self, field: FieldDescriptorProto) -> str:
        return _SCALARS.get(field.type) or _WELL_KNOWN.get(field.type_name[1:]) or self._add_type(field.type_name)
