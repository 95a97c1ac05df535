"""What the edge asks again, and what it never does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived

from tests.e2e.edge.backend import Backend, listening, serving
from tests.e2e.edge.callers import REPLIES, rest_refusal
from tests.e2e.edge.plugin import WORKFLOWS_PORT


@dataclass
class DyingService:
    """Takes a whole request, and hangs up instead of an answer, as a killed process does."""

    paths: list[str] = field(default_factory=list)

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        try:
            while data := await reader.read(65536):
                events = connection.receive_data(data)
                writer.write(connection.data_to_send())
                self.paths += [
                    dict(event.headers)[b":path"].decode() for event in events if isinstance(event, RequestReceived)
                ]
                if any(isinstance(event, DataReceived) for event in events):
                    break
        finally:
            writer.transport.abort()

    def count(self, method: str) -> int:
        return sum(path.endswith(f"/{method}") for path in self.paths)


@asynccontextmanager
async def dying(port: int, certs: Path) -> AsyncIterator[DyingService]:
    service = DyingService()
    async with listening(service.meet, port, certs):
        yield service


def refusing(times: int, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> Any:
    """Answers that the service is busy so many times, then with an empty user."""
    left = times

    async def answer(_request: Any, context: Any) -> pb.User:
        nonlocal left
        left -= 1
        if left >= 0:
            await context.abort(code, "busy")
        return pb.User()

    return answer


class TestRead:
    async def test_is_asked_again_when_the_service_is_busy(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        backend.script["GetUser"] = refusing(1)
        assert (await rest.get("/v1/users/a")).status_code == 200
        assert len(backend.calls) == 2

    async def test_is_asked_again_when_the_service_stops(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        # gRPC's answer to a call that arrives while the server stops.
        backend.script["GetUser"] = refusing(1, grpc.StatusCode.CANCELLED)
        assert (await rest.get("/v1/users/a")).status_code == 200
        assert len(backend.calls) == 2

    async def test_is_asked_again_once(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        backend.script["GetUser"] = refusing(9)
        rest_refusal(await rest.get("/v1/users/a")).is_row(REPLIES[503], http_status=503)
        assert len(backend.calls) == 2

    async def test_is_asked_again_when_the_service_dies(
        self, rest: httpx.AsyncClient, offset: int, certs: Path
    ) -> None:
        async with dying(WORKFLOWS_PORT + offset, certs) as service:
            rest_refusal(await rest.get("/v1/workflows/a")).is_row(REPLIES[503], http_status=503)
        assert service.count("GetWorkflow") == 2

    async def test_is_asked_again_rarely_when_everything_fails(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        """The retry budget: a service in trouble sees little more than what its clients ask for."""
        backend.script["GetUser"] = refusing(10_000)
        gate = asyncio.Semaphore(40)

        async def ask() -> int:
            async with gate:
                return (await rest.get("/v1/users/a")).status_code

        statuses = await asyncio.gather(*(ask() for _ in range(200)))
        assert set(statuses) == {503}
        assert len(backend.calls) <= 1.2 * len(statuses)

        backend.script.clear()
        assert (await rest.get("/v1/users/a")).status_code == 200


class TestMutation:
    @pytest.mark.parametrize(
        ("method", "path"), [("POST", "/v1/users"), ("PATCH", "/v1/users/a"), ("DELETE", "/v1/users/a")]
    )
    async def test_is_never_asked_again(
        self, rest: httpx.AsyncClient, backend: Backend, method: str, path: str
    ) -> None:
        for name in ("CreateUser", "UpdateUser", "DeleteUser"):
            backend.script[name] = refusing(1)
        response = await rest.request(method, path, json={} if method != "DELETE" else None)
        rest_refusal(response).is_row(REPLIES[503], http_status=503)
        assert len(backend.calls) == 1

    async def test_finds_nobody_when_the_service_stops(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        backend.script["CreateUser"] = refusing(1, grpc.StatusCode.CANCELLED)
        rest_refusal(await rest.post("/v1/users", json={})).is_row(REPLIES[503], http_status=503)
        assert len(backend.calls) == 1

    async def test_is_not_sent_again_when_the_service_dies(
        self, rest: httpx.AsyncClient, offset: int, certs: Path
    ) -> None:
        async with dying(WORKFLOWS_PORT + offset, certs) as service:
            response = await rest.post("/v1/workflows", json={"displayName": "x"})
            rest_refusal(response).is_row(REPLIES[503], http_status=503)
        assert service.count("CreateWorkflow") == 1


class TestIdentityOfAService:
    async def test_is_checked_before_a_request_is_sent(self, rest: httpx.AsyncClient, offset: int, certs: Path) -> None:
        async with serving(WORKFLOWS_PORT + offset, certs) as impostor:
            rest_refusal(await rest.get("/v1/workflows/a")).is_row(REPLIES[503], http_status=503)
        assert impostor.calls == []
