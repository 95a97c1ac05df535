"""The errors of operations: the rows of the error registry, and the errors in the comments of the RPCs."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from ameide.common.v1 import violation_pb2
from api_common.errors import EDGE_REPLIES, ERROR_DOMAIN, REGISTRY, ErrorSpec, TooManyCallsError, TooManyWatchesError
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc import StatusCode

from tools.contract.descriptors import has_route, methods_of, public_services, reasons, text_of
from tools.openapi.schemas import RECORDED, Json, Schemas, enum_schema

ANYWHERE: Final = frozenset({400, 401, 403, 405, 429, 431, 500, 503, 504})
"""Statuses that any operation can answer with; each is a row of EDGE_REPLIES."""
WITH_BODY: Final = frozenset({408, 413, 415})
"""Further statuses of operations that take a body."""
OF_MUTATIONS: Final = {
    "INVALID_ARGUMENT": ["IDEMPOTENCY_KEY_REUSED"],
    "ABORTED": ["CONCURRENT_UPDATE", "IDEMPOTENCY_KEY_IN_USE"],
}
"""Reasons, by gRPC code, with which every operation that writes can fail."""
OF_SHARES: Final = {False: TooManyCallsError.reason, True: TooManyWatchesError.reason}
"""The reason with which every operation can fail, by whether it streams."""

# Of two rows with the same code the first is the general one.
_ROWS: Final[dict[str, ErrorSpec]] = {spec.code.name: spec for spec in reversed(REGISTRY)}
_DETAILS: Final = {
    "ErrorInfo": "Which error it is, for programs.",
    "RequestInfo": "The id of the call, which our logs contain, too.",
    "BadRequest": "Which fields of the request are malformed.",
    "ResourceInfo": "Which resource the error is about.",
    "RetryInfo": "When the same call may succeed.",
}
_RPC: Final = "type.googleapis.com/google.rpc."
_HEADERS: Final = ("X-Request-Id", "Error-Type", "Error-Id")


def add_error_schema(schemas: Schemas) -> None:
    """Adds the one shape of errors, with every package's reasons and the details that we send."""
    meanings = dict(sorted(reasons().items()))
    schemas.components["Reason"] = enum_schema("Reason", "Why a call failed, for programs.", meanings)
    for name, description in _DETAILS.items():
        schemas.message(error_details_pb2.DESCRIPTOR.message_types_by_name[name])
        component = schemas.components[name]
        kind = {"@type": {"type": "string", "const": f"{_RPC}{name}"}}
        component["description"] = description
        component["properties"] = kind | component["properties"]
        component["required"] = ["@type", *component.get("required", [])]
    violation = schemas.components["BadRequest.FieldViolation"]["properties"]
    violation["reason"] = schemas.enum(violation_pb2.ViolationReason.DESCRIPTOR)
    info = schemas.components["ErrorInfo"]["properties"]
    info["reason"] = {"$ref": "#/components/schemas/Reason"}
    info["domain"]["const"] = ERROR_DOMAIN
    codes = sorted({spec.code.value[0] for spec in REGISTRY})
    one = {"anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in _DETAILS]}
    facts = "The facts, first the `ErrorInfo`, then the `RequestInfo`."
    schemas.components["Error"] = {
        "title": "Error",
        "type": "object",
        "description": "The shape of every error, whichever layer it comes from (`google.rpc.Status`).",
        "properties": {
            "code": {"type": "integer", "enum": codes, "description": "The gRPC status code."},
            "message": {"type": "string", "description": "One sentence for people."},
            "details": {"type": "array", "minItems": 2, "items": one, "description": facts},
        },
        "required": ["code", "message", "details"],
    }


def table() -> str:
    """Returns the table of every reason, in Markdown. In the contract the rest of its comment says what to do."""
    rows = [
        f"| `{name}` | {', '.join(map(str, statuses))} | {means}. | {advice} |"
        for name, (_, statuses) in sent().items()
        for means, _, advice in [reasons()[name].partition(". ")]
    ]
    return "\n".join(["| Reason | Status | Means | What to do |", "|---|---|---|---|", *rows])


@cache
def sent() -> dict[str, tuple[str, list[int]]]:
    """Returns the gRPC code and the HTTP statuses of each reason, by its name."""
    own = {spec.error.reason: spec for spec in REGISTRY}
    codes = dict.fromkeys(OF_SHARES.values(), "RESOURCE_EXHAUSTED") | {name: one.code.name for name, one in own.items()}
    codes |= {row.reason: row.code.name for row in EDGE_REPLIES}
    codes |= {reason: code for code, named in OF_MUTATIONS.items() for reason in named}
    for method in (one for service in public_services() for one in methods_of(service) if has_route(one)):
        codes |= {reason: code for code, named, _ in _clauses(method) for reason in named}
    found = {}
    for reason, code in sorted(codes.items()):
        statuses = {row.http_status for row in EDGE_REPLIES if row.reason == reason}
        if reason in own or not statuses:
            statuses.add(own.get(reason, _ROWS[code]).http_status)
        found[reason] = (code, sorted(statuses))
    return found


def shared_responses() -> dict[str, Json]:
    """Returns the responses that operations refer to, by HTTP status."""
    general = {row.http_status: row.reason for row in EDGE_REPLIES} | {404: "RESOURCE_NOT_FOUND", 409: "ETAG_MISMATCH"}
    found = {str(status): _response(status, general[status]) for status in sorted(ANYWHERE | WITH_BODY | {404, 409})}
    for status, name in (("401", "WWW-Authenticate"), ("405", "Allow")):
        found[status]["headers"][name] = {"$ref": f"#/components/headers/{name}"}
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in ("ETag", "Age", "X-Request-Id")}
    return found | {"304": {"description": "The client has the resource already.", "headers": headers}}


def responses(method: MethodDescriptor, *, writes: bool, has_body: bool, has_variables: bool) -> dict[str, Json]:
    """Returns the error responses of an operation by HTTP status: references with its meaning and reasons."""
    said = [*_clauses(method), ("RESOURCE_EXHAUSTED", [OF_SHARES[method.server_streaming]], "")]
    if has_variables:
        said.append(("NOT_FOUND", ["METHOD_NOT_FOUND"], ""))
    if writes:
        said += [(code, reasons, "") for code, reasons in OF_MUTATIONS.items()]
    statuses = ANYWHERE | (WITH_BODY if has_body else frozenset()) | {_ROWS[code].http_status for code, *_ in said}
    found = {str(status): {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}
    for status in {_ROWS[code].http_status for code, *_ in said}:
        here = [(named, text) for code, named, text in said if _ROWS[code].http_status == status]
        named = [reason for reasons, _ in here for reason in reasons]
        named += [row.reason for row in EDGE_REPLIES if row.http_status == status and status in ANYWHERE]
        texts = " ".join(f"{text}." for _, text in here if text)
        listed = ", ".join(f"`{reason}`" for reason in dict.fromkeys(named))
        found[str(status)]["description"] = f"{texts}\n\n{listed}".strip()
    return found


def _clauses(method: MethodDescriptor) -> Iterator[tuple[str, list[str], str]]:
    """Yields code, reasons and text of each part of `Errors: NOT_FOUND if …; ABORTED (…).` in a comment."""
    _, _, errors = text_of(method.full_name).partition("Errors: ")
    for clause in errors.rstrip(".").split("; "):
        code = clause.split()[0] if clause else ""
        if code not in _ROWS:
            raise SystemExit(
                f"{method.full_name}: separate the parts of `Errors:` by `; ` and begin each with a code: {clause!r}"
            )
        named = [reason for group in re.findall(r"\(([A-Z_, ]+)\)", clause) for reason in group.split(", ")]
        yield code, named or [_ROWS[code].error.reason], clause


def _response(status: int, reason: str) -> Json:
    details = [
        {"@type": f"{_RPC}ErrorInfo", "reason": reason, "domain": ERROR_DOMAIN, "metadata": {}},
        {"@type": f"{_RPC}RequestInfo", "requestId": "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f10", "servingData": ""},
    ]
    names = (*_HEADERS, "Retry-After", "X-RateLimit-Reset") if reason == "RATE_LIMITED" else _HEADERS
    lines = [f"- `{name}`: {reasons()[name]}" for name, (_, statuses) in sent().items() if status in statuses]
    code, _ = sent()[reason]
    made = {"code": StatusCode[code].value[0], "message": reasons()[reason], "details": details}
    examples = {reason: {"summary": "Made of the list of reasons: no call provokes it at once", "value": made}}
    for name, (_, statuses) in sent().items():
        if name in RECORDED and (name == reason or statuses == [status]):
            examples[name] = {"summary": "A recorded answer", "value": RECORDED[name]}
    return {
        "description": "\n".join(lines),
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names},
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}, "examples": examples}},
    }
