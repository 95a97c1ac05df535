"""Watches through the edge: server-sent events for REST, and as many streams on one connection as are promised."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub

from tests.e2e.conftest import token
from tools.topology import Mesh

pytestmark = pytest.mark.timeout(180)

STREAMS: Final = 1000
"""What one connection may have open (LI-5)."""
PER_SECOND: Final = 150
"""Below what the edge lets one principal begin."""


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line:
            assert line.startswith("data: "), line
            yield json.loads(line.removeprefix("data: "))


def test_rest_gets_server_sent_events(rest: Callable[..., httpx.Client]) -> None:
    client = rest("watching", "admin")
    with client.stream("GET", "/v1/agents:watch?filter=state%3D%22DRAFT%22") as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream"
        assert "grpc-status" not in response.headers
        # A browser that understands gzip gets what there is at once all the same.
        assert "content-encoding" not in response.headers
        told = events(response.iter_lines())
        assert "bookmark" in next(told)
        created = client.post("/v1/agents", json={"displayName": "Watched", "model": "gpt-4o"})
        message = next(told)
        assert message["created"] == created.json()
        activated = client.post(f"/v1/agents/{created.json()['id']}:activate")
        assert next(told)["deleted"] == activated.json()
    # Other answers stay what they were.
    assert created.headers["content-type"] == "application/json"
    with client.stream("GET", "/v1/agents:watch", params={"resumeToken": message["resumeToken"]}) as response:
        assert (response.status_code, response.headers["error-type"]) == (400, "INVALID_RESUME_TOKEN")


async def test_a_thousand_streams_on_one_connection_all_hear(mesh: Mesh) -> None:
    metadata = (("authorization", f"Bearer {token(mesh, 'crowd', 'admin')}"),)
    request = pb.WatchUsersRequest()
    address = mesh.url.removeprefix("http://")
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with (
        grpc.aio.insecure_channel(address, options=options) as one,
        grpc.aio.insecure_channel(address, options=options) as other,
    ):
        watching, users = UserServiceStub(one), UserServiceStub(other)
        calls: list[Any] = []
        for number in range(STREAMS):
            calls.append(watching.WatchUsers(request, metadata=metadata))
            if number % 30 == 29:
                # The edge counts the calls of a principal.
                await asyncio.sleep(30 / PER_SECOND)
        firsts = await asyncio.gather(*(call.read() for call in calls))
        assert {first.WhichOneof("event") for first in firsts} == {"bookmark"}
        user = pb.User(display_name="Heard", email="heard@example.com")
        created = await users.CreateUser(pb.CreateUserRequest(user=user), metadata=metadata)
        heard = await asyncio.gather(*(call.read() for call in calls))
        assert all(message.created == created for message in heard)
        # One more waits for a place, and the connection and its other streams live.
        waiting: Any = watching.WatchUsers(request, metadata=metadata)
        read = asyncio.ensure_future(waiting.read())
        done, _ = await asyncio.wait({read}, timeout=0.5)
        assert not done
        calls[0].cancel()
        assert (await asyncio.wait_for(read, 20)).WhichOneof("event") == "bookmark"
        for call in (*calls, waiting):
            call.cancel()
