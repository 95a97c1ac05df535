"""A call of gRPC whose body is not exactly one message: refused at once, on every protocol that carries one."""

import asyncio
import base64
from collections import Counter
from typing import Final

import httpx
import pytest

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, USERS
from tests.e2e.edge.plugin import Edge, Issuer
from tests.security.test_held_bodies import others_served

MESSAGE: Final = b"\x0a\x02id"
GOOD: Final = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
BAD: Final = {
    "nothing": b"",
    "half a prefix": GOOD[:3],
    "a byte short": GOOD[:-1],
    "a byte more": GOOD + b"\0",
    "two messages": GOOD + GOOD,
    "compressed in no encoding": b"\x01" + GOOD[1:],
    "unknown flags": b"\x02" + GOOD[1:],
    "a length of 4 GiB": b"\0\xff\xff\xff\xff" + MESSAGE,
}
TYPES: Final = ("application/grpc", "application/grpc-web+proto", "application/grpc-web-text")
RPCS: Final = ("GetUser", "WatchUsers")
SECONDS: Final = 12
"""Far less than the 30 s after which the edge gives up, under any load of the machine."""


async def ask(client: httpx.AsyncClient, rpc: str, content_type: str, body: bytes) -> httpx.Response:
    content = base64.b64encode(body) if content_type.endswith("text") else body
    headers = {"content-type": content_type, "te": "trailers"}
    return await client.post(f"{USERS}/{rpc}", headers=headers, content=content)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("rpc", RPCS)
async def test_that_is_not_one_message_is_refused(edge: Edge, backend: Backend, rpc: str, content_type: str) -> None:
    async with edge.client(headers=edge.credentials, http1=False, http2=True) as client, asyncio.timeout(SECONDS):
        for name, body in BAD.items():
            answer = await ask(client, rpc, content_type, body)
            said = (answer.headers.get("grpc-status"), answer.headers.get("error-type"))
            assert said == (str(REPLIES[400].code.value[0]), "INVALID_REQUEST"), name
            assert answer.headers["grpc-status-details-bin"], name
        if rpc == "GetUser":
            assert (await ask(client, rpc, content_type, GOOD)).headers.get("grpc-status", "0") == "0"
    assert [call.method for call in backend.calls] == (["GetUser"] if rpc == "GetUser" else [])


async def test_three_hundred_of_them_cost_others_nothing(edge: Edge, issuer: Issuer, backend: Backend) -> None:
    """Each is answered, and each has a line in the log."""
    agent = "one-message-test"
    kinds = list(BAD.values())
    client = edge.client(headers=edge.credentials | {"user-agent": agent}, http1=False, http2=True)
    async with others_served(edge, issuer), client, asyncio.timeout(SECONDS * 2):
        answers = await asyncio.gather(
            *(ask(client, RPCS[number % 2], TYPES[number % 3], kinds[number % len(kinds)]) for number in range(300))
        )
    assert Counter(answer.headers["grpc-status"] for answer in answers) == {"3": 300}
    async with asyncio.timeout(SECONDS):
        while len(lines := [line for line in edge.log() if line["user_agent"] == agent]) < 300:
            await asyncio.sleep(0.05)
    assert {line["reason"] for line in lines} == {"INVALID_REQUEST"}
