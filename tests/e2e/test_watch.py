"""Watches over REST, as server-sent events; what is lost and found on the way is for test_watches.py."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.timeout(180)


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
