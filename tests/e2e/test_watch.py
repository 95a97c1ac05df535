"""Watches over REST, as server-sent events; what is lost and found on the way is for test_watches.py."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb

pytestmark = pytest.mark.timeout(180)


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line and not line.startswith("id: "):
            assert line.startswith("data: "), line
            yield json.loads(line.removeprefix("data: "))


def test_rest_gets_server_sent_events(open_client: Callable[..., httpx.Client]) -> None:
    client = open_client("watching", "admin")
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


class Frames:
    """Reads gRPC-Web as it arrives: the messages of a stream."""

    def __init__(self, pieces: Iterator[bytes], decode: Callable[[bytes], bytes]) -> None:
        self._pieces = map(decode, pieces)
        self._rest = b""

    def next(self) -> pb.WatchUsersResponse:
        flag, length = struct.unpack(">BI", self._take(5))
        assert flag == 0
        return pb.WatchUsersResponse.FromString(self._take(length))

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._rest += next(self._pieces)
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


@pytest.mark.parametrize(
    ("form", "encode", "decode"),
    [("grpc-web+proto", bytes, bytes), ("grpc-web-text+proto", base64.b64encode, base64.b64decode)],
    ids=["binary", "text"],
)
def test_grpc_web_gets_each_message_at_once(
    open_client: Callable[..., httpx.Client],
    form: str,
    encode: Callable[[bytes], bytes],
    decode: Callable[[bytes], bytes],
) -> None:
    client, content_type = open_client(f"watching-{form}".replace("+", "-"), "admin"), f"application/{form}"
    asked = client.stream(
        "POST",
        "/ameide.user.v1.UserService/WatchUsers",
        headers={"content-type": content_type, "accept": content_type, "x-grpc-web": "1"},
        content=encode(bytes(5)),
    )
    with asked as response:
        assert (response.status_code, response.headers["content-type"]) == (200, content_type)
        frames = Frames(response.iter_raw(), decode)
        assert frames.next().HasField("bookmark")
        created = client.post("/v1/users", json={"displayName": "Ada", "email": "ada@example.com"}).json()
        assert frames.next().created.id == created["id"]
        assert client.delete(f"/v1/users/{created['id']}").status_code == 200
        assert frames.next().deleted.id == created["id"]
