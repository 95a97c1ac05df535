"""A program with an API key, through the real mesh."""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest
from ameide.edge.v1 import ext_authz_pb2 as edge
from ameide.user.v1 import user_pb2, user_pb2_grpc
from google.rpc import status_pb2

from tests.e2e.started import token
from tools.topology import Mesh

REQUEST_ID = "6f9c2a34-8f3f-4b0e-9a51-0c8f4f0f4f10"

Rest = Callable[..., httpx.Client]
Json = dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A service account and who manages it."""

    admin: httpx.Client
    tenant: str
    path: str

    def key(self, **settings: str) -> Json:
        """Makes a key: `{"apiKey": …, "secret": …}`."""
        answer = self.admin.post(f"{self.path}/keys", json={"displayName": "Key", **settings})
        assert answer.status_code == 200, answer.text
        made: Json = answer.json()
        return made


@pytest.fixture
def program(open_client: Rest) -> Callable[..., Program]:
    """Creates a service account in a tenant of its own: `program(*roles)`."""

    def create(*roles: str) -> Program:
        tenant = f"t-{secrets.token_hex(8)}"
        admin = open_client(tenant, "admin")
        account = admin.post("/v1/serviceAccounts", json={"displayName": "CI", "roles": roles}).json()
        return Program(admin, tenant, f"/v1/serviceAccounts/{account['id']}")

    return create


@pytest.fixture
def anonymous(open_client: Rest) -> httpx.Client:
    return open_client("nobody")


def tls_channel(mesh: Mesh) -> grpc.Channel:
    authority = (mesh.certificates / "ca.pem").read_bytes()
    return grpc.secure_channel(f"localhost:{mesh.ports['edge https']}", grpc.ssl_channel_credentials(authority))


def ask_grpc(mesh: Mesh, **headers: str) -> grpc.RpcError | None:
    """Lists users over gRPC; returns how that was refused."""
    metadata = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    with tls_channel(mesh) as channel:
        users = user_pb2_grpc.UserServiceStub(channel)
        try:
            users.ListUsers(user_pb2.ListUsersRequest(), metadata=(*metadata, ("x-request-id", REQUEST_ID)))
        except grpc.RpcError as error:
            return error
    return None


def details_of(refusal: Any) -> bytes:
    """Returns the `google.rpc.Status` of a refusal."""
    (details,) = (value for key, value in refusal.trailing_metadata() if key == "grpc-status-details-bin")
    return bytes(details)


class TestKey:
    def test_calls_as_its_service_account_over_rest_and_grpc(
        self, mesh: Mesh, program: Callable[..., Program], anonymous: httpx.Client
    ) -> None:
        ci = program("editor")
        secret = ci.key()["secret"]
        headers = {"x-api-key": secret}
        workflow = anonymous.post("/v1/workflows", headers=headers, json={"displayName": "Made by CI"}).json()
        assert workflow["tenantId"] == ci.tenant
        assert ci.path.endswith(workflow["createdBy"])
        # The IPA service asks the workflow service in the name of the account.
        ipa = anonymous.post("/v1/ipas", headers=headers, json={"displayName": "I", "workflowId": workflow["id"]})
        assert ipa.status_code == 200, ipa.text
        assert ask_grpc(mesh, x_api_key=secret) is None
        (key,) = ci.admin.get(f"{ci.path}/keys").json()["apiKeys"]
        assert key["lastUsedTime"]

    def test_may_do_what_its_roles_say_and_is_no_user(
        self, program: Callable[..., Program], anonymous: httpx.Client
    ) -> None:
        headers = {"x-api-key": program("viewer").key()["secret"]}
        assert anonymous.get("/v1/users", headers=headers).status_code == 200
        assert anonymous.post("/v1/workflows", headers=headers, json={"displayName": "W"}).status_code == 403
        assert anonymous.get("/v1/me", headers=headers).status_code == 403

    def test_works_beside_its_successor_for_the_overlap(
        self, program: Callable[..., Program], anonymous: httpx.Client
    ) -> None:
        ci = program("viewer")
        old = ci.key()
        new = ci.admin.post(f"{ci.path}/keys/{old['apiKey']['id']}:rotate", json={"overlapSeconds": 60}).json()
        for made in (old, new):
            assert anonymous.get("/v1/users", headers={"x-api-key": made["secret"]}).status_code == 200

    def test_that_does_not_work_is_refused_with_the_same_bytes_whatever_the_cause(
        self, mesh: Mesh, program: Callable[..., Program], anonymous: httpx.Client
    ) -> None:
        ci, other = program("viewer"), program("viewer")
        good, revoked, disabled = ci.key()["secret"], ci.key(), other.key()["secret"]
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        expired = ci.key(expireTime=soon)["secret"]
        assert ci.admin.post(f"{ci.path}/keys/{revoked['apiKey']['id']}:revoke").status_code == 200
        assert other.admin.post(f"{other.path}:disable", json={}).status_code == 200
        deadline = time.monotonic() + 20
        while anonymous.get("/v1/users", headers={"x-api-key": expired}).status_code == 200:
            assert time.monotonic() < deadline
        bearer = f"Bearer {token(mesh, ci.tenant, 'admin')}"
        digit = "0" if good[50] != "0" else "1"
        attempts: list[dict[str, str]] = [
            {"x_api_key": good[:50] + digit + good[51:]},
            {"x_api_key": "garbled"},
            {"x_api_key": ""},
            {"x_api_key": f"{good},{good}"},
            {"x_api_key": revoked["secret"]},
            {"x_api_key": expired},
            {"x_api_key": disabled},
            {"x_api_key": good, "authorization": bearer},
            {"x_api_key": "garbled", "authorization": bearer},
        ]
        bodies: dict[bool, set[bytes]] = defaultdict(set)
        statuses: dict[bool, set[bytes]] = defaultdict(set)
        for attempt in attempts:
            is_alone = "authorization" not in attempt
            headers = {name.replace("_", "-"): value for name, value in attempt.items()}
            answer = anonymous.get("/v1/users", headers={**headers, "x-request-id": REQUEST_ID})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token", '), attempt
            bodies[is_alone].add(answer.content)
            refusal = ask_grpc(mesh, **attempt)
            assert refusal is not None, attempt
            assert refusal.code() == grpc.StatusCode.UNAUTHENTICATED
            statuses[is_alone].add(details_of(refusal))
        assert [len(same) for same in (*bodies.values(), *statuses.values())] == [1, 1, 1, 1]
        assert {status_pb2.Status.FromString(one).code for same in statuses.values() for one in same} == {16}

    def test_is_in_no_log(self, mesh: Mesh, program: Callable[..., Program], anonymous: httpx.Client) -> None:
        secret = program("viewer").key()["secret"]
        done = anonymous.get("/v1/users", headers={"x-api-key": secret})
        anonymous.get("/v1/users", headers={"x-api-key": f"{secret}x"})
        request_id = done.headers["x-request-id"]
        deadline = time.monotonic() + 20
        # Envoy writes twice a second; its line comes last.
        while request_id not in mesh.log("edge").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert request_id in mesh.log("users").read_text()
        for log in mesh.log("edge").parent.iterdir():
            assert secret not in log.read_text(), log.name


class TestExchange:
    @pytest.mark.parametrize("who", ["ipas", "workflows"])
    def test_is_for_the_edge_only(self, mesh: Mesh, program: Callable[..., Program], who: str) -> None:
        certificates = mesh.certificates
        credentials = grpc.ssl_channel_credentials(
            *((certificates / name).read_bytes() for name in ("ca.pem", f"{who}.key", f"{who}.pem"))
        )
        http = edge.AttributeContext.HttpRequest(headers={"x-api-key": program("viewer").key()["secret"]})
        request = edge.CheckRequest(attributes=edge.AttributeContext(request=edge.AttributeContext.Request(http=http)))
        with grpc.secure_channel(f"localhost:{mesh.ports['users grpc']}", credentials) as channel:
            check = channel.unary_unary(
                "/envoy.service.auth.v3.Authorization/Check",
                request_serializer=edge.CheckRequest.SerializeToString,
                response_deserializer=edge.CheckResponse.FromString,
            )
            with pytest.raises(grpc.RpcError) as refusal:
                check(request)
        assert refusal.value.code() == grpc.StatusCode.PERMISSION_DENIED

    def test_is_not_reached_from_outside(self, mesh: Mesh) -> None:
        with tls_channel(mesh) as channel:
            check: Any = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
            with pytest.raises(grpc.RpcError) as refusal:
                check(b"", metadata=(("authorization", f"Bearer {token(mesh, 'acme', 'admin')}"),))
        assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED
