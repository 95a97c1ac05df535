"""Where the edge says no, to the byte."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import yaml
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import REPLIES, USERS, rest_refusal
from tests.e2e.edge.conftest import Edge
from tools.edge import ENVOY

LIMIT = 10 * MIB


def json_body(size: int) -> bytes:
    """A request for CreateUser of so many bytes."""
    frame = b'{"displayName":"%s"}'
    return frame % (b"x" * (size - len(frame) + 2))


def message(size: int) -> bytes:
    """The same as a protobuf message."""
    # Two fields around the name, each with a length of four bytes.
    name = "x" * (size - 10)
    request = pb.CreateUserRequest(user=pb.User(display_name=name)).SerializeToString()
    assert len(request) == size
    return request


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 256 * 1024):
        yield body[start : start + 256 * 1024]


class TestRequestBody:
    @pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
    @pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
    async def test_of_ten_mebibytes_passes_over_rest(
        self, rest: httpx.AsyncClient, backend: Backend, size: int, chunked: bool
    ) -> None:
        body = json_body(size)
        assert len(body) == size
        response = await rest.post("/v1/users", content=chunks(body) if chunked else body)
        if size > LIMIT:
            rest_refusal(response).is_row(REPLIES[413], http_status=413)
            assert backend.calls == []
        else:
            assert response.status_code == 200
            assert len(backend.calls[0].request.user.display_name) == size - 18

    @pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
    async def test_of_ten_mebibytes_passes_over_grpc(self, edge: Edge, backend: Backend, size: int) -> None:
        async with edge.channel() as channel:
            method = channel.unary_unary(f"{USERS}/CreateUser", request_serializer=bytes, response_deserializer=bytes)
            call = method(message(size), metadata=tuple(edge.credentials.items()))
            assert await call.code() == (grpc.StatusCode.OK if size <= LIMIT else grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert len(backend.calls) == (size <= LIMIT)


class TestResponseBody:
    @pytest.mark.parametrize("mebibytes", [1, 3, 10])
    async def test_arrives_in_full(self, rest: httpx.AsyncClient, backend: Backend, mebibytes: int) -> None:
        # Each quote is two characters in JSON.
        name = '"' * (mebibytes * MIB - 10)

        async def answer(_request: Any, _context: Any) -> pb.User:
            return pb.User(display_name=name)

        backend.script["GetMe"] = answer
        response = await rest.get("/v1/me")
        assert response.status_code == 200
        assert response.json()["displayName"] == name


class TestHeaders:
    @pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
    async def test_up_to_sixteen_kibibytes_pass_always(self, edge: Edge, backend: Backend, version: str) -> None:
        http2 = version == "HTTP/2"
        async with edge.client(headers=edge.credentials, http1=not http2, http2=http2) as client:
            for kibibytes in (4, 8, 9, 12, 15):
                statuses = {
                    (await client.get("/v1/me", headers={"x-long": "x" * kibibytes * 1024})).status_code
                    for _ in range(5)
                }
                assert statuses == {200}, kibibytes
            for kibibytes in (16, 17, 70):
                response = await client.get("/v1/me", headers={"x-long": "x" * kibibytes * 1024})
                assert response.status_code == 431, kibibytes

    async def test_are_at_most_a_hundred(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        many = {f"x-{number}": "1" for number in range(100)}
        response = await rest.get("/v1/me", headers=many)
        assert (response.status_code, response.json()["message"]) == (431, REPLIES[431].message)
        assert (await rest.get("/v1/me", headers=dict(list(many.items())[:80]))).status_code == 200

    async def test_in_crumbs_count_too(self, edge: Edge, backend: Backend) -> None:
        """HTTP/2 may send a cookie in crumbs, a header each: cheap to send and dear to keep (CVE-2026-47774)."""
        credentials = list(edge.credentials.items())
        async with edge.client(http1=False, http2=True) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/v1/me", headers=[*credentials, *[("cookie", "a=1")] * 101])
            assert backend.calls == []
            assert (await client.get("/v1/me", headers=[*credentials, *[("cookie", "a=1")] * 50])).status_code == 200


class TestStreams:
    async def test_of_one_connection_number_a_thousand(self, edge: Edge, backend: Backend) -> None:
        waiting, everybody = 0, asyncio.Event()

        async def wait(_request: Any, _context: Any) -> pb.User:
            nonlocal waiting
            waiting += 1
            if waiting == 1000:
                everybody.set()
            await everybody.wait()
            return pb.User()

        backend.script["GetMe"] = wait
        async with edge.channel() as channel:
            method = channel.unary_unary(f"{USERS}/GetMe", request_serializer=bytes, response_deserializer=bytes)
            calls = [method(b"", metadata=tuple(edge.credentials.items())) for _ in range(1000)]
            codes = {await call.code() for call in calls}
        assert codes == {grpc.StatusCode.OK}


class TestRunningConfiguration:
    async def test_is_the_file(self, edge: Edge) -> None:
        """What Envoy runs, asked of itself, so that no figure is lost on the way (design decision 9)."""
        async with httpx.AsyncClient(base_url=edge.admin, verify=False) as admin:
            dump = (await admin.get("/config_dump", params={"resource": "static_listeners"})).json()["configs"]
        managers = [one["listener"]["filter_chains"][0]["filters"][0]["typed_config"] for one in dump]
        assert managers[0] == managers[1]
        document = yaml.safe_load((ENVOY / "envoy.yaml").read_text())
        written = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        for name in ("common_http_protocol_options", "http2_protocol_options", "stream_idle_timeout", "drain_timeout"):
            assert managers[0][name] == written[name]
        assert [one["listener"]["per_connection_buffer_limit_bytes"] for one in dump] == [32768, 32768]
