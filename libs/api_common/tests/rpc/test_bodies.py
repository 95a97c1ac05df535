"""The body of a call is exactly one message, whatever kind the method is; anything else is refused at once."""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.testing import NEVER, Caller, Identity, TestDatabase, TestService, running_service, settings_for

from libs.api_common.tests.example.service import CONTRACT, SERVICE

MESSAGE: Final = pb.GetUserRequest(id=NEVER).SerializeToString()
FRAME: Final = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
EMPTY: Final = b"\0" * 5
INVALID, UNKNOWN = "3", "12"

bodies = pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="none"),
        pytest.param(EMPTY[:2], id="half a prefix"),
        pytest.param(EMPTY[:4], id="a byte of the prefix short"),
        pytest.param(FRAME[:-1], id="a byte short"),
        pytest.param(FRAME[:5], id="a prefix only"),
        pytest.param(FRAME * 2, id="two"),
        pytest.param(EMPTY * 2, id="two empty ones"),
    ],
)


async def post(client: httpx.AsyncClient, method: str, body: Any) -> httpx.Response:
    return await client.post(f"/{CONTRACT.full_name}/{method}", content=body)


@pytest.fixture
async def raw(users_service: TestService, admin: Caller) -> AsyncIterator[httpx.AsyncClient]:
    async with raw_client(users_service, admin) as client:
        yield client


def raw_client(service: TestService, caller: Caller) -> httpx.AsyncClient:
    """Returns what sends bodies that no gRPC client would."""
    headers = {"te": "trailers", "content-type": "application/grpc", **dict(caller.metadata)}
    url = f"http://127.0.0.1:{service.server.grpc_port}"
    return httpx.AsyncClient(base_url=url, headers=headers, http1=False, http2=True, timeout=20, verify=False)


@bodies
@pytest.mark.parametrize("method", ["CreateUser", "WatchUsers", "GetUser"])
async def test_is_refused_at_once(raw: httpx.AsyncClient, method: str, body: bytes) -> None:
    response = await post(raw, method, body)
    assert (response.headers["grpc-status"], response.headers["error-type"]) == (INVALID, "INVALID_REQUEST")
    assert response.headers["grpc-message"].startswith("The body must hold one message")


@bodies
async def test_of_an_unknown_method_is_not_waited_for(raw: httpx.AsyncClient, body: bytes) -> None:
    assert (await post(raw, "DropUsers", body)).headers["grpc-status"] == UNKNOWN


async def test_may_arrive_in_pieces(raw: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in FRAME:
            yield bytes([byte])

    assert (await post(raw, "GetUser", pieces())).headers["error-type"] == "RESOURCE_NOT_FOUND"


async def test_is_its_first_message_if_a_part_of_another_follows(raw: httpx.AsyncClient) -> None:
    """As gRPC core has it, which never tells us of the part (grpcio 1.85)."""
    response = await post(raw, "CreateUser", FRAME + EMPTY[:3])
    assert not response.headers["grpc-message"].startswith("The body must hold one message")


@pytest.mark.parametrize("messages", [0, 1])
async def test_that_does_not_end_is_not_waited_for_long(
    users_database: TestDatabase,
    identity: Identity,
    admin: Caller,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    messages: int,
) -> None:
    monkeypatch.setattr(sys.modules["api_common.rpc.layers.errors"], "ARRIVAL_SECONDS", 0.2)
    path = f"/{CONTRACT.full_name}"
    async with running_service(SERVICE, settings_for(users_database, identity)) as service:
        create: grpc.aio.StreamUnaryMultiCallable[bytes, bytes] = service.channel.stream_unary(f"{path}/CreateUser")
        watch: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = service.channel.stream_stream(f"{path}/WatchUsers")
        for method in (create, watch):
            call = method(metadata=admin.metadata)
            for _ in range(messages):
                await call.write(MESSAGE)
            assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"event":"rpc"' in line]
    assert [line["code"] for line in lines] == ["DEADLINE_EXCEEDED"] * 2
