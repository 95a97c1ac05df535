"""The TypeScript client through the real edge; what it asserts itself is in clients/typescript/test/faults.test.ts."""

import asyncio
import os
from typing import Any

import pytest
from ameide.edge.v1 import ext_authz_pb2 as edge_pb
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import INTERNAL_ISSUER
from api_common.errors import (
    AuthorizationError,
    DomainError,
    ExternalServiceError,
    FieldViolation,
    RateLimitError,
    ValidationError,
    render,
)
from users_service.errors import EmailTakenError

from tests.e2e.edge.backend import Backend, Call
from tests.e2e.edge.histories import watch_users
from tests.e2e.edge.plugin import Edge, Issuer
from tools.clients import typescript


class NewerError(AuthorizationError):
    reason = "NEWER"


AWAY = ExternalServiceError("away")
MALFORMED = FieldViolation("user.email", "must be an address", "INVALID_FORMAT")
FAILURES: dict[str, tuple[DomainError, int]] = {
    "busy twice": (AWAY, 2),
    "busy twice, fresh token": (AWAY, 2),
    # The edge itself asks a second time, so this reaches the client twice.
    "busy thrice": (AWAY, 3),
    "busy once, told": (AWAY, 1),
    "busy, not again": (AWAY, 99),
    "later": (RateLimitError("later", retry_after_seconds=0.2), 1),
    "much later": (RateLimitError("later", retry_after_seconds=60), 99),
    "taken": (EmailTakenError("taken"), 99),
    "malformed": (ValidationError("No.", violations=[MALFORMED]), 99),
    "newer": (NewerError("no"), 99),
    "outage": (AWAY, 10_000),
}
"""How the service fails, and how often, when somebody asks for this."""
PAGES = [["a", "b"], [], ["c", "d", "e"]]


def scripts(issuer: Issuer) -> dict[str, Any]:
    failed = dict.fromkeys(FAILURES, 0)

    async def fail(name: str, context: Any) -> None:
        if name == "sleepy":
            await asyncio.sleep(20)
        error, times = FAILURES.get(name, (AWAY, 0))
        if times > failed.setdefault(name, 0):
            failed[name] += 1
            code, message, trailers = render(error, request_id="the-id")
            await context.abort(code, message, trailers)

    async def create(request: pb.CreateUserRequest, context: Any) -> pb.User:
        await fail(request.user.display_name, context)
        return request.user

    async def get(request: pb.GetUserRequest, context: Any) -> pb.User:
        await fail(request.id, context)
        return pb.User(id=request.id)

    async def list_users(request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        number = int(request.page_token or 0)
        following = str(number + 1) if number + 1 < len(PAGES) else ""
        return pb.ListUsersResponse(users=[pb.User(id=id) for id in PAGES[number]], next_page_token=following)

    async def check(request: Any, context: Any) -> edge_pb.CheckResponse:
        token = issuer.token(iss=INTERNAL_ISSUER, exp=issuer.now() + 60)
        option = edge_pb.HeaderValueOption(
            header=edge_pb.HeaderValue(key="authorization", value=f"Bearer {token}"), append_action=2
        )
        return edge_pb.CheckResponse(ok_response=edge_pb.OkHttpResponse(headers=[option]))

    return {"CreateUser": create, "GetUser": get, "ListUsers": list_users, "Check": check}


@pytest.fixture(scope="module")
def built() -> None:
    """Messages and services generated, everything type-checked and compiled."""
    typescript.build()


@pytest.mark.timeout(120)
async def test_the_typescript_client(edge: Edge, backend: Backend, issuer: Issuer, built: None) -> None:
    backend.script |= {**scripts(issuer), "WatchUsers": watch_users()}
    trust = {"NODE_EXTRA_CA_CERTS": str(edge.folder / "certs" / "ca.pem")}
    process = await asyncio.create_subprocess_exec(
        *("node", "--test", "--test-reporter=tap", "dist/test/faults.test.js", "dist/test/watching.test.js"),
        cwd=typescript.PACKAGE,
        env={**os.environ, "EDGE_URL": edge.url, "SECURE_URL": edge.secure_url, "TOKEN": edge.token, **trust},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "# pass 38" in output.decode(), output.decode()

    def created(name: str) -> list[Call]:
        return [one for one in backend.calls if one.method == "CreateUser" and one.request.user.display_name == name]

    busy, taken = created("busy twice"), created("taken")
    assert len(busy) == 3
    assert len(taken) == 1
    assert len({one.metadata["idempotency-key"] for one in busy}) == 1
    assert busy[0].metadata["idempotency-key"] != taken[0].metadata["idempotency-key"]
    assert created("own key")[0].metadata["idempotency-key"] == "mine"
    assert [len(created(name)) for name in ("much later", "malformed", "newer", "nobody")] == [1, 1, 1, 0]
    assert len(created("outage")) < 30
    assert [one.metadata["idempotency-key"] for one in created("busy, not again")] == ["mine"]
    assert busy[0].seconds_left and busy[0].seconds_left > 25
    (checked,) = (one for one in backend.calls if one.method == "Check")
    assert checked.request.attributes.request.http.headers["x-api-key"] == "the-key"
    reads = [one for one in backend.calls if one.method == "GetUser" and one.request.id == "busy thrice"]
    assert len(reads) == 4
    assert not any("idempotency-key" in one.metadata for one in reads)
    assert [one.request.filter for one in backend.calls if one.method == "ListUsers"][:3] == ['state = "ACTIVE"'] * 3
