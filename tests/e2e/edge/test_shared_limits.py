"""The limits that edges share, with a service that a test scripts; `make check-limits` has the real one."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import CALLERS, REPLIES, USERS, Ask, Refusal, ask_tool, http_status_of
from tests.e2e.edge.plugin import Edge, Issuer, Layout, filter_named, running
from tests.e2e.test_metrics import SHARED_LIMITS
from tools.topology import LIMITS

ALLOWED: Final = "envoy_cluster_ratelimit_failure_mode_allowed"
OWN: Final = 30
"""What a principal may ask before the edge's own limit refuses."""
WINDOW_SECONDS: Final = 40
OK, OVER_LIMIT = 1, 2
HEALTHY: Final = re.compile(r"^limits::.*::health_flags::healthy$", re.MULTILINE)
LANGUAGES: Final = CALLERS | {"mcp": ask_tool}


def _number(field: int, value: int) -> bytes:
    return bytes([field << 3, value])


def _bytes(field: int, value: bytes) -> bytes:
    return bytes([field << 3 | 2, len(value)]) + value


def _answer(code: int) -> bytes:
    """Returns a RateLimitResponse (`envoy.service.ratelimit.v3`) as the service gives it: 100 a window."""
    headers = {"limit": b"100", "remaining": b"0" if code == OVER_LIMIT else b"99", "reset": b"%d" % WINDOW_SECONDS}
    added = b"".join(
        _bytes(3, _bytes(1, f"x-ratelimit-{name}".encode()) + _bytes(2, value)) for name, value in headers.items()
    )
    limit = _bytes(2, _number(1, 100) + _number(2, 1))
    return _number(1, code) + _bytes(2, _number(1, code) + limit + _bytes(4, _number(1, WINDOW_SECONDS))) + added


class Service:
    """What was asked, and whom it refuses; `answers` scripts what it does with a principal instead."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.answers: dict[str, Callable[[Any], Awaitable[bytes]]] = {}

    async def should_rate_limit(self, request: bytes, context: Any) -> bytes:
        # Each entry of a descriptor is a key and a value.
        found = re.findall(rb"(class|tenant|/principal)\x12(.)", request, re.DOTALL)
        values = [request.split(key + b"\x12" + size)[1][: size[0]].decode() for key, size in found]
        self.asked.append([f"{key.decode()}={value}" for (key, _), value in zip(found, values, strict=True)])
        principal = values[-1]
        if principal in self.answers:
            return await self.answers[principal](context)
        return _answer(OVER_LIMIT if principal.startswith("greedy") else OK)


@pytest.fixture(scope="module")
async def counting(certs: Path, offset: int) -> AsyncIterator[Service]:
    made = Service()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    healthy = health.HealthServicer()
    await healthy.set("ratelimit", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    method: dict[str, Any] = {"ShouldRateLimit": grpc.unary_unary_rpc_method_handler(made.should_rate_limit)}
    name = "envoy.service.ratelimit.v3.RateLimitService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, method),))
    pair = [((certs / "limits.key").read_bytes(), (certs / "limits.pem").read_bytes())]
    authority = (certs / "ca.pem").read_bytes()
    trust = grpc.ssl_server_credentials(pair, authority, require_client_auth=True)
    server.add_secure_port(f"127.0.0.1:{LIMITS.grpc_port + offset}", trust)
    await server.start()
    yield made
    await server.stop(None)


@pytest.fixture(scope="module")
async def shared(layout: Layout, published: None, counting: Service) -> AsyncIterator[Edge]:
    """An edge with shared limits, whose own buckets are small. It waits longer for the service: machines are busy."""

    def change(manager: Any) -> None:
        assert filter_named(manager, "ratelimit")["timeout"] == "0.05s"
        filter_named(manager, "ratelimit")["timeout"] = "3s"
        for descriptor in filter_named(manager, "identity")["descriptors"]:
            if len(descriptor["entries"]) == 3:
                descriptor["token_bucket"] = {"max_tokens": OWN, "tokens_per_fill": OWN, "fill_interval": "60000s"}

    async with running(layout("shared", 3, change, shared_limits=True)) as edge:
        async with asyncio.timeout(20), edge.client() as client:
            while not HEALTHY.search((await client.get(f"{edge.admin}/clusters")).text):
                await asyncio.sleep(0.05)
        yield edge


async def counted(edge: Edge) -> dict[str, int]:
    """Returns what the page of metrics says of the shared limits."""
    async with edge.client() as client:
        text = (await client.get(f"{edge.admin}/stats/prometheus")).text
    found = re.findall(r"^(envoy_cluster_ratelimit_\w+)\{envoy_cluster_name=\"users\"\} (\d+)$", text, re.MULTILINE)
    return {name: int(value) for name, value in found}


def caller(issuer: Issuer, sub: str) -> dict[str, str]:
    return {"authorization": f"Bearer {issuer.token(sub=sub, tenant_id='acme')}"}


@pytest.mark.parametrize("language", LANGUAGES)
async def test_refuse_as_the_limits_of_the_edge_do(
    shared: Edge, backend: Backend, issuer: Issuer, counting: Service, language: str
) -> None:
    async def refused(sub: str) -> Refusal:
        return await LANGUAGES[language](shared, Ask("/v1/me", f"{USERS}/GetMe", caller(issuer, sub)))

    by_service = await refused(f"greedy-{language}")
    assert backend.calls == []
    async with shared.client(headers=caller(issuer, f"busy-{language}")) as client:
        statuses = [(await client.get("/v1/me")).status_code for _ in range(OWN)]
    assert set(statuses) == {200}
    asked = len(counting.asked)
    by_edge = await refused(f"busy-{language}")
    assert len(counting.asked) == asked, "what the edge itself refuses is no work for the service"
    for refusal in (by_service, by_edge):
        refusal.is_row(REPLIES[429], http_status=http_status_of(REPLIES[429], language))
    assert by_service.headers.keys() == by_edge.headers.keys()
    assert [one.type_url for one in by_service.status.details] == [one.type_url for one in by_edge.status.details]
    # The callers compare it with what the error itself says.
    assert by_service.headers["retry-after"] == str(WINDOW_SECONDS)
    limits = {name: value for name, value in by_service.headers.items() if "ratelimit" in name}
    assert limits == {
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(WINDOW_SECONDS),
        "ratelimit-policy": '"default";q=100',
        "ratelimit": f'"default";r=0;t={WINDOW_SECONDS}',
    }


async def test_count_by_class_tenant_and_principal(
    shared: Edge, backend: Backend, issuer: Issuer, counting: Service
) -> None:
    counting.asked.clear()
    async with shared.client(headers=caller(issuer, "ada")) as client:
        answers = [await client.get("/v1/me"), await client.delete("/v1/users/x")]
    assert [one.status_code for one in answers] == [200, 200]
    assert counting.asked == [
        [f"class={name}", "tenant=acme", f"class={name}", "tenant=acme", "/principal=ada"] for name in ("READ", "WRITE")
    ]
    # One value, although the limits of address, edge and service all have something to say.
    assert answers[0].headers.get_list("x-ratelimit-limit") == ["100"]
    assert answers[0].headers.get_list("ratelimit") == [f'"default";r=99;t={WINDOW_SECONDS}']


async def test_let_calls_pass_when_the_service_fails(
    shared: Edge, backend: Backend, issuer: Issuer, counting: Service
) -> None:
    async def hang(context: Any) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    async def fail(context: Any) -> bytes:
        await context.abort(grpc.StatusCode.UNKNOWN, "the store is away")
        raise AssertionError

    for behave in (hang, fail):
        counting.answers["ada"], before = behave, await counted(shared)
        async with shared.client(headers=caller(issuer, "ada")) as client:
            answer = await client.get("/v1/me")
        assert answer.status_code == 200
        assert answer.headers.get_list("x-ratelimit-limit") == [str(OWN)]
        # What the alert looks at.
        assert (await counted(shared))[ALLOWED] == before.get(ALLOWED, 0) + 1
        assert (await counted(shared)).keys() >= SHARED_LIMITS
    counting.answers.clear()
