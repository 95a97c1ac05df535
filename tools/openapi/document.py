"""The document as a whole: the operations of the routes that the protos declare."""

import json
import re
from pathlib import Path
from typing import Any, Final, cast

from ameide.common.v1 import policy_pb2
from api_common.contract import MethodPolicy, Precondition, read_policies
from google.api import annotations_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

from tools.contract.descriptors import ending_of, farewell, has_route, methods_of, public_services, text_of
from tools.openapi import refusals
from tools.openapi.schemas import RECORDED, Json, Schemas, example
from tools.topology import ROOT

PATH: Final = ROOT / "docs" / "openapi.json"

_TEXT: Final = {"type": "string"}
_ID: Final = {"type": "string", "format": "uuid"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_ABOUT: Final = Path(__file__).with_name("about.md")
_PARAMETERS: Final = {
    "X-Request-Id": (_ID, "Names the call in answers and logs; the edge makes one if it is absent or not a UUID."),
    "traceparent": (_TEXT | {"maxLength": 55}, "The caller's trace (W3C Trace Context), which the call continues."),
    "Idempotency-Key": (
        _TEXT | {"pattern": "^[!-~]{1,255}$"},
        "Makes the call safe to repeat: for 24 hours the same key with the same request gets the stored answer.",
    ),
    "If-Match": (
        _TEXT | {"pattern": r'^(\*|"[!#-~]{0,62}")$'},
        "The `etag` that the resource must have: the same condition as the field `etag`. `*` means any.",
    ),
    "Cache-Control": (
        _TEXT | {"pattern": "^max-age=[0-9]{1,9}$"},
        "`max-age=5` accepts an answer up to 5 seconds old; the most is 30. Without it the answer is current.",
    ),
    "If-None-Match": (_TEXT, "The `ETag`s that the client has: a list, or `*`. If one is current, the answer is 304."),
    "Last-Event-ID": (_TEXT, "The `id` of the last event that the client has; it precedes `resumeToken`."),
}
_ETAG: Final = _TEXT | {"examples": ['"1"']}
_HEADERS: Final = {
    "ETag": (_ETAG, "The version of the resource, as in its `etag`."),
    "Age": (_COUNT, "How old the answer is at most, in seconds; only with an answer from memory."),
    "X-Request-Id": (_ID, "The name of the call in our logs."),
    "Error-Type": ({"$ref": "#/components/schemas/Reason"}, "The `reason` of the error."),
    "Error-Id": (_TEXT, "The name of the call in our logs, as in `X-Request-Id`."),
    "Idempotent-Replayed": (_TEXT | {"const": "true"}, "Set if the answer is the stored answer of an earlier call."),
    "Retry-After": (_COUNT, "The time to wait before the next call, in seconds."),
    "X-RateLimit-Limit": (_TEXT, "The size of the token bucket that limits the call: the most calls at once."),
    "X-RateLimit-Remaining": (_COUNT, "The number of calls that are left in the bucket."),
    "X-RateLimit-Reset": (_COUNT, "The time until the bucket is refilled, in seconds."),
    "RateLimit": (
        _TEXT,
        "The calls that are left (`r`) and the time until the refill (`t`), as the IETF's draft has it.",
    ),
    "RateLimit-Policy": (_TEXT, "The size of the bucket (`q`), as the IETF's draft has it."),
    "Allow": (_TEXT, "The methods that the path has."),
    "WWW-Authenticate": (_TEXT, "How to authenticate, and whether a credential was refused (RFC 6750, RFC 9728)."),
}
_CREDENTIALS: Final = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of the identity provider; in development `make -s token` prints one.",
    },
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "An API key of a service account.",
    },
}
_LIMITS: Final = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "RateLimit", "RateLimit-Policy")


def render() -> str:
    """Returns the document as it is committed."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


def build() -> Json:
    """Returns the document."""
    schemas = Schemas()
    paths: dict[str, Json] = {}
    tags = []
    for service in public_services():
        tags.append({"name": _tag(service), "description": text_of(service.full_name)})
        policies = read_policies(service)
        for method in filter(has_route, methods_of(service)):
            verb, path, operation = _operation(method, policies[method.name], schemas)
            paths.setdefault(path, {})[verb] = operation
    refusals.add_error_schema(schemas)
    tags.append({"name": "Errors", "description": refusals.table()})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ameide API", "version": "1", "description": _ABOUT.read_text() + "\n".join(_rate_classes())},
        "servers": [{"url": "/", "description": "The edge that serves this document."}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": refusals.shared_responses(),
            "parameters": {
                name: {"name": name, "in": "header", "schema": schema, "description": description}
                for name, (schema, description) in _PARAMETERS.items()
            },
            "headers": {
                name: {"schema": schema, "description": description} for name, (schema, description) in _HEADERS.items()
            },
            "securitySchemes": _CREDENTIALS,
        },
    }


def _operation(method: MethodDescriptor, policy: MethodPolicy, schemas: Schemas) -> tuple[str, str, Json]:
    """Returns verb, path and operation."""
    rule = cast(Any, method.GetOptions()).Extensions[annotations_pb2.http]
    if rule.additional_bindings:
        raise SystemExit(f"{method.full_name} has two routes; tools/openapi documents one")
    verb, path = rule.WhichOneof("pattern"), getattr(rule, rule.WhichOneof("pattern"))
    variables = {name: _field_at(method, name) for name in re.findall(r"{([^}]*)}", path)}
    parameters = [_parameter(field, "path", schemas) for field in variables.values()]
    if rule.body != "*":
        bound = {name.partition(".")[0] for name in (*variables, rule.body)}
        free = [field for field in method.input_type.fields if field.name not in bound]
        parameters += [_parameter(field, "query", schemas) for field in free]
    writes = not policy.read_only
    is_get = method.name.startswith("Get")
    known = {
        "Idempotency-Key": writes,
        "If-Match": writes and Precondition(method.input_type).known,
        "If-None-Match": is_get,
        "Last-Event-ID": method.server_streaming,
        "Cache-Control": policy.cacheable,
    }
    names = [name for name in _PARAMETERS if known.get(name, True)]
    about = text_of(method.full_name).partition("Errors: ")[0].strip()
    operation: Json = {
        "operationId": method.name,
        "tags": [_tag(method.containing_service)],
        "summary": re.split(r"[.;:,]", about)[0],
        "description": f"{about}\n\nRequires the permission `{policy.permission}`. Rate class: {policy.rate_class}.",
        "parameters": [*parameters, *({"$ref": f"#/components/parameters/{name}"} for name in names)],
    }
    if ending := ending_of(method):
        operation["deprecated"] = True
        operation["description"] += f"\n\n{farewell(ending)}"
    if policy.users_only:
        operation["security"] = [{"bearer": []}]
    if rule.body:
        operation["requestBody"] = _request_body(method, rule.body, list(variables), schemas)
    refused = refusals.responses(method, writes=writes, has_body=bool(rule.body), has_variables=bool(variables))
    same = {"304": {"$ref": "#/components/responses/304"}} if is_get else {}
    operation["responses"] = {"200": _success(method, policy, schemas)} | same | refused
    for name, field in variables.items():
        path = path.replace(f"{{{name}}}", f"{{{field.json_name}}}")
    return verb, path, operation


def _parameter(field: FieldDescriptor, where: str, schemas: Schemas) -> Json:
    schema = schemas.value(field)
    if "$ref" in schema:
        raise SystemExit(f"{field.full_name} is a message and cannot travel in the {where}")
    found = {"name": field.json_name, "in": where, "description": text_of(field.full_name), "schema": schema}
    return found | ({"required": True} if where == "path" or {"minLength", "minItems"} & schema.keys() else {})


def _request_body(method: MethodDescriptor, body: str, variables: list[str], schemas: Schemas) -> Json:
    if body == "*":
        message, elsewhere, partial = method.input_type, frozenset(variables), False
    else:
        message = cast(Descriptor, method.input_type.fields_by_name[body].message_type)
        elsewhere = frozenset(name.removeprefix(f"{body}.") for name in variables if name.startswith(f"{body}."))
        partial = "update_mask" in method.input_type.fields_by_name
    content = {
        "schema": schemas.message(message, partial=partial, without=elsewhere),
        "example": example(message, without=elsewhere),
    }
    return {"required": body != "*" or not elsewhere, "content": {"application/json": content}}


def _success(method: MethodDescriptor, policy: MethodPolicy, schemas: Schemas) -> Json:
    # The content of a stream is the data of one event.
    form = "text/event-stream" if method.server_streaming else "application/json"
    content = {"schema": schemas.message(method.output_type)}
    # A new operation has no answer yet.
    content |= {"example": RECORDED[method.name]} if method.name in RECORDED else {}
    has_etag = "etag" in method.output_type.fields_by_name or method.name.startswith("Get")
    known = {"ETag": has_etag, "Age": policy.cacheable, "Idempotent-Replayed": not policy.read_only}
    names = [name for name in ("ETag", "Age", "X-Request-Id", "Idempotent-Replayed", *_LIMITS) if known.get(name, True)]
    return {
        "description": text_of(method.output_type.full_name),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {form: content},
    }


def _rate_classes() -> list[str]:
    """Returns a line for each rate class with its comment."""
    enum = policy_pb2.RateClass.DESCRIPTOR
    return [f"- `{value.name}`: {text_of(f'{enum.full_name}.{value.name}')}" for value in enum.values[1:]]


def _field_at(method: MethodDescriptor, path: str) -> FieldDescriptor:
    """Returns the field of the request that a path such as `user.id` leads to."""
    *parents, name = path.split(".")
    message = method.input_type
    for parent in parents:
        message = cast(Descriptor, message.fields_by_name[parent].message_type)
    return message.fields_by_name[name]


def _tag(service: ServiceDescriptor) -> str:
    return service.name.removesuffix("Service")
