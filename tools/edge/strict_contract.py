"""The contract as `strict.lua` reads it, to refuse what no RPC takes (ADR 16)."""

from collections.abc import Iterable
from typing import Any, Final

from ameide.common.v1 import policy_pb2
from api_common.contract import has_behavior
from api_common.errors import json_path
from google.api import annotations_pb2
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

_HTTP: Final[Any] = annotations_pb2.http
_POLICY: Final[Any] = policy_pb2.policy
_SCALARS: Final = {
    getattr(FieldDescriptor, f"CPPTYPE_{name.upper()}"): name
    for name in ("int32", "int64", "uint32", "uint64", "float", "double", "bool", "string")
}


def _plain_kind(field: FieldDescriptor) -> str | None:
    """Returns the kind of a scalar or of a message whose JSON is no object of its fields."""
    if field.message_type is not None:
        return _WELL_KNOWN.get(field.message_type.full_name)
    return "bytes" if field.type == FieldDescriptor.TYPE_BYTES else _SCALARS.get(field.cpp_type)


# Messages whose JSON is not an object of their fields.
_WELL_KNOWN: Final = {
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.protobuf.FieldMask": "mask",
    "google.protobuf.Struct": "struct",
    "google.protobuf.Value": "any",
    "google.protobuf.ListValue": "array",
    **{
        wrapper.full_name: _plain_kind(wrapper.fields_by_name["value"])
        for wrapper in wrappers_pb2.DESCRIPTOR.message_types_by_name.values()
    },
}


def contract(methods: Iterable[MethodDescriptor]) -> dict[str, Any]:
    """Returns what RPCs with a route take: `types` by name, `rest_routes` as a tree of path segments, `rpcs` by path.

    Connect in JSON has a route, too: a POST to the RPC's own path.

    A node has its literal segments by name, the node of a variable under 2, and under 1 the routes that end there, by
    custom verb.

    Raises:
        ValueError: an RPC declares no rate class.
    """
    types: dict[str, Any] = {}
    routes: dict[Any, Any] = {}
    rpcs: dict[str, Any] = {}
    for method in methods:
        rate_class = policy_pb2.RateClass.Name(method.GetOptions().Extensions[_POLICY].rate_class)
        if rate_class == "RATE_CLASS_UNSPECIFIED":
            raise ValueError(f"{method.full_name} must have a rate_class in the policy")
        _add_route(routes, method, types, rate_class)
        service, options = method.containing_service.full_name, method.GetOptions()
        body = {"prefix": "", "type": _add_type(method.input_type, types), "bound": {}}
        rpc = {1: {"": {"query": {}, "body": body, "class": rate_class}}}
        routes.setdefault("POST", {}).setdefault(service, {})[method.name] = rpc
        is_safe = options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
        rpcs[f"/{service}/{method.name}"] = {"safe": is_safe, "stream": method.server_streaming}
    return {"types": types, "rest_routes": routes, "rpcs": rpcs}


def _add_route(routes: dict[Any, Any], method: MethodDescriptor, types: dict[str, Any], rate_class: str) -> None:
    """Puts the route of ``method`` into the tree.

    Raises:
        ValueError: the route uses what `strict.lua` does not know.
    """
    rule = method.GetOptions().Extensions[_HTTP]
    verb = rule.WhichOneof("pattern")
    if rule.additional_bindings or rule.response_body or verb in {None, "custom"}:
        raise ValueError(f"{method.full_name}: strict.lua knows one plain route per RPC")
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
    route: dict[str, Any] = {"query": {} if whole else _parameters(request, taken, types), "class": rate_class}
    route["variables"] = {number: json_path(name) for number, name in enumerate(variables, 1)}
    if method.server_streaming:
        route["stream"] = True
    if rule.body:
        body = request if whole else request.fields_by_name[rule.body].message_type
        assert body is not None
        leaves = [name.rpartition(".")[2] for name in variables]
        route["body"] = {
            "prefix": "" if whole else request.fields_by_name[rule.body].json_name,
            "type": _add_type(body, types),
            # Fields that the body may repeat if they equal the path.
            "bound": {
                body.fields_by_name[leaf].json_name: number
                for number, leaf in enumerate(leaves, 1)
                if leaf in body.fields_by_name
            },
        }
        if "update_mask" in route["query"]:
            written = [one for one in body.fields if not has_behavior(one, "OUTPUT_ONLY") and one.name != "etag"]
            route["body"]["masked"] = {one.json_name: True for one in written}
    node.setdefault(1, {})[custom_verb] = route


def _parameters(message: Descriptor, taken: set[str], types: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields that are query parameters, under both spellings of their names."""
    found = {}
    for field in message.fields:
        if field.name in taken:
            continue
        kind = _add_type(field.enum_type, types) if field.enum_type else _plain_kind(field)
        if kind not in {*types, "string", "bool", "mask", "int32", "uint32", "int64", "uint64"}:
            raise ValueError(f"{field.full_name}: strict.lua checks no query parameter of this type")
        found[field.name] = found[field.json_name] = {"name": field.json_name, "kind": kind, "many": field.is_repeated}
    return found


def _add_type(described: Descriptor | EnumDescriptor, types: dict[str, Any]) -> str:
    """Adds a message or an enum, and the types of its fields, to the types; returns its name."""
    name = described.full_name
    if name in types:
        return name
    if isinstance(described, EnumDescriptor):
        names = [value.name for value in described.values]
        types[name] = {"values": dict.fromkeys(names, True), "description": f"must be one of {', '.join(names[1:])}"}
        return name
    fields: dict[str, Any] = {}
    types[name] = {"fields": fields}
    for field in described.fields:
        form, value = "list" if field.is_repeated else "one", field
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            form, value = "map", field.message_type.fields_by_name["value"]
        inner = value.message_type or value.enum_type
        kind = _plain_kind(value) or (_add_type(inner, types) if inner else None)
        fields[field.name] = fields[field.json_name] = {"name": field.json_name, "form": form, "kind": kind}
        # The oneof of a field that is `optional` holds nothing else.
        if field.containing_oneof and len(field.containing_oneof.fields) > 1:
            fields[field.name]["oneof"] = field.containing_oneof.name
    return name
