"""Where the edge says no, to the byte."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import REPLIES, USERS, rest_refusal
from tests.e2e.edge.plugin import Edge, Issuer
from tools.edge.build import build

LIMIT = 10 * MIB
TEXTS = 10


@pytest.fixture
def edge(edge: Edge, issuer: Issuer, request: pytest.FixtureRequest) -> Edge:
    """For a caller of this test's own, whose share of bytes is whole."""
    return replace(edge, token=issuer.token(tenant_id=f"t{abs(hash(request.node.nodeid))}"))


def json_body(size: int) -> bytes:
    """A request for CreateUser of so many bytes, in texts that are not too long."""
    frame = b'{"labels":{' + b",".join(b'"%02d":"%%s"' % number for number in range(TEXTS)) + b"}}"
    each, rest = divmod(size - len(frame % ((b"",) * TEXTS)), TEXTS)
    return frame % (b"x" * (each + rest), *[b"x" * each] * (TEXTS - 1))


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


def framed(body: bytes) -> bytes:
    """A message of gRPC-Web."""
    return b"\0" + len(body).to_bytes(4, "big") + body


def message_in(response: httpx.Response) -> bytes:
    """Returns the message of an answer of gRPC-Web; its trailers follow."""
    text = "text" in response.headers["content-type"]
    # Padded chunks of base64, one after the other.
    body = b"".join(map(base64.b64decode, re.findall(rb"[^=]+=*", response.content))) if text else response.content
    return body[5 : 5 + int.from_bytes(body[1:5], "big")]


async def post_rest(edge: Edge, size: int, *, http2: bool = False, chunked: bool = False) -> httpx.Response:
    async with edge.client(headers=edge.credentials, http1=not http2, http2=http2) as client:
        body = json_body(size)
        assert len(body) == size
        return await client.post("/v1/users", content=chunks(body) if chunked else body)


async def post_grpc_web(edge: Edge, size: int, content_type: str) -> httpx.Response:
    body = framed(message(size))
    async with edge.client(headers=edge.credentials | {"content-type": content_type}) as client:
        content = base64.b64encode(body) if "text" in content_type else body
        return await client.post(f"{USERS}/CreateUser", content=content)


class TestRequestBody:
    @pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
    @pytest.mark.parametrize("chunked", [False, True], ids=["with a length", "in chunks"])
    @pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
    async def test_of_ten_mebibytes_passes_over_rest(
        self, edge: Edge, backend: Backend, size: int, chunked: bool, http2: bool
    ) -> None:
        response = await post_rest(edge, size, http2=http2, chunked=chunked)
        if size > LIMIT:
            rest_refusal(response).is_row(REPLIES[413], http_status=413)
            assert backend.calls == []
        else:
            assert response.status_code == 200
            assert dict(backend.calls[0].request.user.labels) == json.loads(json_body(size))["labels"]

    @pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
    async def test_of_ten_mebibytes_passes_over_grpc(self, edge: Edge, backend: Backend, size: int) -> None:
        async with edge.channel() as channel:
            method = channel.unary_unary(f"{USERS}/CreateUser", request_serializer=bytes, response_deserializer=bytes)
            call = method(message(size), metadata=tuple(edge.credentials.items()))
            assert await call.code() == (grpc.StatusCode.OK if size <= LIMIT else grpc.StatusCode.RESOURCE_EXHAUSTED)
        assert len(backend.calls) == (size <= LIMIT)

    @pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
    @pytest.mark.parametrize("content_type", ["application/grpc-web+proto", "application/grpc-web-text"])
    async def test_of_ten_mebibytes_passes_over_grpc_web(
        self, edge: Edge, backend: Backend, size: int, content_type: str
    ) -> None:
        """Base64 makes a third more of it, which does not count."""
        response = await post_grpc_web(edge, size, content_type)
        assert response.status_code == 200
        assert response.headers.get("error-type") == ("PAYLOAD_TOO_LARGE" if size > LIMIT else None)
        assert response.headers.get("grpc-status") == ("8" if size > LIMIT else None)
        assert len(backend.calls) == (size <= LIMIT)


class TestResponseBody:
    @pytest.fixture
    def name(self, request: pytest.FixtureRequest, backend: Backend) -> str:
        """What the service answers with, in a message of ten mebibytes, or of as many as the test says."""
        mebibytes: int = getattr(request, "param", 10)
        name = "x" * (mebibytes * MIB - 5)

        async def answer(_request: Any, _context: Any) -> pb.User:
            return pb.User(display_name=name)

        backend.script["GetMe"] = answer
        return name

    # A buffer that is too small shows at another size over REST, where the answer is written anew.
    @pytest.mark.parametrize("name", [1, 3, 8, 10], indirect=True)
    @pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
    async def test_arrives_in_full_over_rest(self, edge: Edge, name: str, http2: bool) -> None:
        async with edge.client(headers=edge.credentials, http1=not http2, http2=http2) as client:
            response = await client.get("/v1/me", headers={"accept-encoding": "identity"})
        assert response.status_code == 200
        assert response.json()["displayName"] == name

    async def test_arrives_in_full_when_its_json_is_six_times_as_long(
        self, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        async def answer(_request: Any, _context: Any) -> pb.User:
            return pb.User(display_name="<" * (10 * MIB - 5))

        backend.script["GetMe"] = answer
        response = await rest.get("/v1/me", headers={"accept-encoding": "identity"})
        assert response.content.count(b"\\u003c") == 10 * MIB - 5

    async def test_arrives_in_full_over_grpc(self, edge: Edge, name: str) -> None:
        async with edge.channel() as channel:
            method = channel.unary_unary(f"{USERS}/GetMe", request_serializer=bytes, response_deserializer=bytes)
            response = await method(b"", metadata=tuple(edge.credentials.items()))
        assert pb.User.FromString(response).display_name == name

    @pytest.mark.parametrize("content_type", ["application/grpc-web+proto", "application/grpc-web-text"])
    async def test_arrives_in_full_over_grpc_web(self, edge: Edge, name: str, content_type: str) -> None:
        headers = edge.credentials | {"content-type": content_type, "accept": content_type}
        content = base64.b64encode(framed(b"")) if "text" in content_type else framed(b"")
        async with edge.client(headers=headers) as client:
            response = await client.post(f"{USERS}/GetMe", content=content)
        assert pb.User.FromString(message_in(response)).display_name == name


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
        written = build()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        for name in ("common_http_protocol_options", "http2_protocol_options", "stream_idle_timeout", "drain_timeout"):
            assert managers[0][name] == written[name]
        assert [one["listener"]["per_connection_buffer_limit_bytes"] for one in dump] == [32768] * len(dump)
