"""The same mistake over REST (HTTP/1.1 and HTTP/2), gRPC and gRPC-Web, against the whole mesh: one answer.

tests/e2e/edge/test_error_matrix.py has every error there is; here are those that people make, as the services say them.
"""

import base64
import secrets
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import json_path
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.started import token
from tools.topology import Mesh

USERS: Final = "/ameide.user.v1.UserService"
NEVER: Final = "01900000-0000-7000-8000-000000000000"


@dataclass(frozen=True)
class Mistake:
    """One wrong request, as REST and as RPC, and what is said about it."""

    name: str
    http_status: int
    code: int
    reason: str
    verb: str
    path: str
    rpc: str
    request: Message = field(default_factory=pb.GetMeRequest)
    json: dict[str, Any] | None = None
    roles: tuple[str, ...] = ("admin",)
    headers: tuple[tuple[str, str], ...] = ()


GRACE: Final = pb.User(display_name="Grace", email="grace@navy.example")
GRACE_JSON: Final = {"displayName": "Grace", "email": "grace@navy.example"}
CREATE: Final = ("POST", "/v1/users", f"{USERS}/CreateUser")
CREATE_GRACE: Final = (*CREATE, pb.CreateUserRequest(user=GRACE), GRACE_JSON)
GET: Final = ("GET", f"/v1/users/{NEVER}", f"{USERS}/GetUser", pb.GetUserRequest(id=NEVER))
GET_X: Final = ("GET", "/v1/users/x", f"{USERS}/GetUser", pb.GetUserRequest(id="x"))
LIST: Final = ("GET", "/v1/users?filter=(", f"{USERS}/ListUsers", pb.ListUsersRequest(filter="("))
NOWHERE: Final = (404, 12, "METHOD_NOT_FOUND")
"""For REST the code is 5."""
MISTAKES: Final = [
    Mistake("no credential", 401, 16, "UNAUTHENTICATED", *GET, roles=()),
    Mistake("no such role", 403, 7, "PERMISSION_DENIED", *CREATE_GRACE, roles=("viewer",)),
    Mistake("no such id", 404, 5, "RESOURCE_NOT_FOUND", *GET),
    Mistake("no such route", *NOWHERE, "GET", "/v1/nothing", "/no.such.Service/Get"),
    Mistake("wrong verb", 405, *NOWHERE[1:], "PUT", "/v1/users", f"{USERS}/PutUsers"),
    Mistake("no such verb", *NOWHERE, "POST", "/v1/users/x:fly", f"{USERS}/FlyUser"),
    Mistake("malformed field", 400, 3, "INVALID_REQUEST", *GET_X),
    Mistake("missing fields", 400, 3, "INVALID_REQUEST", *CREATE, pb.CreateUserRequest(user=pb.User()), {}),
    Mistake("malformed filter", 400, 3, "INVALID_FILTER", *LIST),
    Mistake("conflict", 409, 6, "EMAIL_TAKEN", *CREATE_GRACE),
    Mistake("condition where there is none", 400, 3, "INVALID_REQUEST", *GET, headers=(("if-match", "*"),)),
]


@dataclass(frozen=True)
class Answer:
    """What a caller was told."""

    http_status: int
    status: status_pb2.Status
    headers: dict[str, str]


async def over_rest(mesh: Mesh, mistake: Mistake, headers: dict[str, str], *, h2: bool = False) -> Answer:
    async with httpx.AsyncClient(base_url=mesh.url, headers=headers, http1=not h2, http2=h2, verify=False) as client:
        response = await client.request(mistake.verb, mistake.path, json=mistake.json)
    assert response.headers["content-type"] == "application/json"
    status = json_format.ParseDict(response.json(), status_pb2.Status())
    return Answer(response.status_code, status, dict(response.headers))


async def over_rest_h2(mesh: Mesh, mistake: Mistake, headers: dict[str, str]) -> Answer:
    return await over_rest(mesh, mistake, headers, h2=True)


async def over_grpc(mesh: Mesh, mistake: Mistake, headers: dict[str, str]) -> Answer:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{mesh.ports['edge http']}") as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(mistake.rpc)
        call = method(mistake.request.SerializeToString(), metadata=tuple(headers.items()))
        trailers = dict(tuple(await call.trailing_metadata() or ()))
        packed = trailers["grpc-status-details-bin"]
        assert isinstance(packed, bytes)
        status = status_pb2.Status.FromString(packed)
        assert (status.code, status.message) == ((await call.code()).value[0], await call.details())
    return Answer(200, status, {key: value for key, value in trailers.items() if isinstance(value, str)})


async def over_grpc_web(mesh: Mesh, mistake: Mistake, headers: dict[str, str]) -> Answer:
    message = mistake.request.SerializeToString()
    web = {**headers, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    async with httpx.AsyncClient(base_url=mesh.url, headers=web, verify=False) as client:
        response = await client.post(mistake.rpc, content=b"\0" + len(message).to_bytes(4, "big") + message)
    packed = base64.b64decode(response.headers["grpc-status-details-bin"] + "==")
    return Answer(response.status_code, status_pb2.Status.FromString(packed), dict(response.headers))


LANGUAGES: Final[dict[str, Callable[[Mesh, Mistake, dict[str, str]], Awaitable[Answer]]]] = {
    "rest": over_rest,
    "rest-h2": over_rest_h2,
    "grpc": over_grpc,
    "grpc-web": over_grpc_web,
}


def as_rest_says(status: status_pb2.Status) -> status_pb2.Status:
    """Returns the same refusal with the names of fields as JSON has them."""
    said = status_pb2.Status.FromString(status.SerializeToString())
    for detail in said.details:
        found = error_details_pb2.BadRequest()
        if detail.Unpack(found):
            for violation in found.field_violations:
                said.message = said.message.replace(violation.field, json_path(violation.field))
                violation.field = json_path(violation.field)
            detail.Pack(found)
    return said


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.name)
async def test_is_told_in_the_same_way_everywhere(mesh: Mesh, mistake: Mistake) -> None:
    tenant, request_id = f"t-{secrets.token_hex(8)}", str(uuid.uuid4())
    async with httpx.AsyncClient(base_url=mesh.url, verify=False) as client:
        headers = {"authorization": f"Bearer {token(mesh, tenant, 'admin')}"}
        assert (await client.post("/v1/users", json=GRACE_JSON, headers=headers)).status_code == 200
    headers = {"x-request-id": request_id, **dict(mistake.headers)}
    if mistake.roles:
        headers["authorization"] = f"Bearer {token(mesh, tenant, *mistake.roles)}"
    answers = {language: await ask(mesh, mistake, headers) for language, ask in LANGUAGES.items()}
    for language, answer in answers.items():
        expected = as_rest_says(answers["grpc"].status) if language.startswith("rest") else answers["grpc"].status
        if language.startswith("rest") and mistake.http_status == 404:
            expected.code = 5
        assert answer.status == expected, language
        assert answer.http_status == (mistake.http_status if language.startswith("rest") else 200), language
        said = answer.headers
        assert (said["x-request-id"], said["error-id"]) == (request_id, request_id), language
        assert said["error-type"] == mistake.reason, language
    status, info, request = answers["grpc"].status, error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(request)
    assert (status.code, info.reason, info.domain) == (mistake.code, mistake.reason, "ameide.dev")
    assert request.request_id == request_id
