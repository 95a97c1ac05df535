"""What travels compressed, and what a compressed message may become (ADR 17)."""

import resource
import zlib
from typing import Any

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge


def answers(backend: Backend, user: pb.User, *, etag: str = "") -> None:
    async def answer(_request: Any, context: Any) -> pb.User:
        if etag:
            await context.send_initial_metadata((("etag", etag),))
        return user

    backend.script["GetMe"] = answer


class TestJson:
    @pytest.mark.parametrize(("accepted", "coding"), [("gzip", "gzip"), ("br, gzip;q=0.5", "gzip"), ("*", "gzip")])
    async def test_that_is_large_is_gzipped_for_who_accepts_it(
        self, rest: httpx.AsyncClient, backend: Backend, accepted: str, coding: str
    ) -> None:
        answers(backend, pb.User(display_name="x" * 100_000))
        response = await rest.get("/v1/me", headers={"accept-encoding": accepted})
        assert (response.headers["content-encoding"], response.headers["vary"]) == (coding, "Accept-Encoding")
        assert response.num_bytes_downloaded < 5_000
        assert response.json()["displayName"] == "x" * 100_000

    @pytest.mark.parametrize("accepted", ["identity", "br", "gzip;q=0"])
    async def test_is_plain_for_who_does_not(self, rest: httpx.AsyncClient, backend: Backend, accepted: str) -> None:
        answers(backend, pb.User(display_name="x" * 100_000))
        response = await rest.get("/v1/me", headers={"accept-encoding": accepted})
        assert "content-encoding" not in response.headers
        assert response.num_bytes_downloaded > 100_000

    async def test_that_is_small_is_plain(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        answers(backend, pb.User(display_name="x" * 3_500))
        assert "content-encoding" not in (await rest.get("/v1/me")).headers
        assert "content-encoding" not in (await rest.get("/v1/nothing")).headers

    @pytest.mark.parametrize("accepted", ["gzip", "identity"])
    async def test_keeps_its_etag(self, rest: httpx.AsyncClient, backend: Backend, accepted: str) -> None:
        answers(backend, pb.User(display_name="x" * 10_000), etag='"3"')
        response = await rest.get("/v1/me", headers={"accept-encoding": accepted})
        assert response.headers.get_list("etag") == ['"3"']
        answers(backend, pb.User(display_name="x" * 10_000))
        response = await rest.get("/v1/me", headers={"accept-encoding": accepted})
        assert "etag" not in response.headers
        assert not [name for name in response.headers if name.startswith("x-ameide")]

    async def test_is_never_asked_of_a_service_in_grpc_compression(
        self, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        """The transcoder reads no compressed message, and a client's header must not make one."""
        response = await rest.get("/v1/me", headers={"grpc-accept-encoding": "gzip", "accept-encoding": "gzip"})
        assert response.status_code == 200
        metadata = backend.calls[0].metadata
        assert {"x-ameide-accept-encoding", "accept-encoding"}.isdisjoint(metadata)


class TestMessageOfGrpc:
    async def test_may_be_compressed_for_who_says_so_to_grpc(self, edge: Edge, backend: Backend) -> None:
        """And for nobody who says so to the service, past gRPC."""
        async with edge.channel() as channel:
            method = channel.unary_unary(f"{USERS}/GetMe", request_serializer=bytes, response_deserializer=bytes)
            await method(b"", metadata=tuple(edge.credentials.items()))
        headers = edge.credentials | {"content-type": "application/grpc", "te": "trailers"}
        async with edge.client(headers=headers, http1=False, http2=True) as client:
            await client.post(f"{USERS}/GetMe", content=b"\0" * 5, headers={"x-ameide-accept-encoding": "gzip"})
        first, second = (call.metadata for call in backend.calls)
        assert "gzip" in str(first["x-ameide-accept-encoding"])
        assert "x-ameide-accept-encoding" not in second

    @pytest.mark.parametrize("mebibytes", [17, 256])
    async def test_that_grows_beyond_the_limit_is_refused_before_it_has(
        self, edge: Edge, backend: Backend, mebibytes: int
    ) -> None:
        packer = zlib.compressobj(wbits=31)
        packed = b"".join([packer.compress(b"\0" * MIB) for _ in range(mebibytes)]) + packer.flush()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        headers = edge.credentials | {"content-type": "application/grpc", "te": "trailers", "grpc-encoding": "gzip"}
        async with edge.client(headers=headers, http1=False, http2=True) as client:
            frame = b"\1" + len(packed).to_bytes(4, "big") + packed
            response = await client.post(f"{USERS}/CreateUser", content=frame)
        assert (response.headers["grpc-status"], response.headers["error-type"]) == ("8", "PAYLOAD_TOO_LARGE")
        assert backend.calls == []
        # The service of this test lives in its process.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
