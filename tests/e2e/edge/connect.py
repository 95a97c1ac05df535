"""Connect as its callers write and read it, in protobuf and JSON."""

import json
from collections.abc import Iterator
from typing import Any, Final

import httpx
from google.protobuf import json_format
from google.protobuf.message import Message

from tests.e2e.edge.callers import USERS, Refusal, connect_error

WATCH: Final = f"{USERS}/WatchUsers"
END: Final = 2
"""The flag of a stream's last message."""


def encoded(message: Message, codec: str) -> bytes:
    return message.SerializeToString() if codec == "proto" else json_format.MessageToJson(message).encode()


def decoded(content: bytes, codec: str, kind: Any) -> Any:
    return kind.FromString(content) if codec == "proto" else json_format.Parse(content, kind())


def envelope(message: bytes, flags: int = 0) -> bytes:
    return bytes([flags]) + len(message).to_bytes(4, "big") + message


def envelopes(content: bytes) -> Iterator[tuple[int, bytes]]:
    while content:
        size = int.from_bytes(content[1:5], "big")
        assert len(content) >= 5 + size
        yield content[0], content[5 : 5 + size]
        content = content[5 + size :]


async def call(client: httpx.AsyncClient, path: str, codec: str, content: bytes, **headers: str) -> httpx.Response:
    said = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.post(path, content=content, headers={"content-type": f"application/{codec}"} | said)


async def watch(client: httpx.AsyncClient, codec: str, content: bytes, **headers: str) -> httpx.Response:
    return await call(client, WATCH, f"connect+{codec}", content, **headers)


def stream_refusal(response: httpx.Response, codec: str) -> Refusal:
    """Reads a refused stream: one last message."""
    assert (response.status_code, response.headers["content-type"]) == (200, f"application/connect+{codec}")
    ((flags, content),) = envelopes(response.content)
    assert flags == END
    return connect_error(json.loads(content)["error"], 200, dict(response.headers))
