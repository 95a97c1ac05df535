"""Nothing in a header of one caller harms the call of another, whatever interprets the header (ADR 33).

gRPC keeps the parse error of a header in its HPACK table and lays it on later calls of the connection, and the edge
sends everybody's calls over the same few connections.
"""

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Final

import pytest

from tests.e2e.started import token
from tests.e2e.test_stories import AGGREGATES
from tests.http2 import Answer, Header, Http2
from tools.topology import Mesh

HEADERS: Final = (
    # What gRPC's core parses or reads.
    *("grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-internal-encoding-request", "te", "content-type"),
    *("user-agent", "host", "grpc-message", "grpc-status", "grpc-previous-rpc-attempts", "grpc-retry-pushback-ms"),
    *("grpc-tags-bin", "grpc-trace-bin", "grpc-server-stats-bin", "endpoint-load-metrics-bin", "lb-cost-bin"),
    *("lb-token", "grpclb-client-stats", "x-envoy-peer-metadata", "x-forwarded-host", "x-forwarded-for", "any-bin"),
    # What Envoy or HTTP reads.
    *(":authority", ":scheme", ":method", "x-forwarded-proto", "x-envoy-expected-rq-timeout-ms", "x-client-trace-id"),
    *("x-envoy-original-path", "x-envoy-retry-on", "accept", "accept-encoding", "content-encoding", "content-length"),
    *("expect", "connection", "upgrade", "transfer-encoding", "x-grpc-web", "x-http-method-override", "cookie"),
    # What traces and services read.
    *("traceparent", "tracestate", "baggage", "x-b3-traceid", "b3", "x-request-id", "idempotency-key", "if-match"),
    *("x-api-key", "authorization", "x-ameide-accept-encoding"),
)
VALUES: Final[dict[str, tuple[bytes, ...]]] = {
    "absent": (),
    "empty": (b"",),
    "twice": (b"1", b"1"),
    "malformed": (b"xx",),
    "huge": (b"9" * 20_000,),
    "non-ASCII": (b"\xc3\xa4\xff",),
    "control characters": (b"a\x01\x7f\tb",),
}
LIST: Final = "/ameide.user.v1.UserService/ListUsers"
EMPTY: Final = b"\0" * 5
CONNECTIONS: Final = 8
CALLS: Final = 50
ROUNDS: Final = 5


@dataclass(frozen=True)
class Protocol:
    """A good request, to which a header is added."""

    method: str
    path: str
    headers: Sequence[Header] = ()
    body: bytes = b""


PROTOCOLS: Final = {
    "REST": Protocol("GET", "/v1/users"),
    "gRPC": Protocol("POST", LIST, (("te", "trailers"), ("content-type", "application/grpc")), EMPTY),
    "gRPC-Web": Protocol("POST", LIST, (("content-type", "application/grpc-web+proto"),), EMPTY),
    "preflight": Protocol(
        "OPTIONS",
        LIST,
        (
            ("origin", "https://evil.example"),
            ("access-control-request-method", "POST"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ),
    ),
    "health": Protocol("GET", "/healthz"),
}


@dataclass(frozen=True)
class Attack:
    """One request."""

    protocol: Protocol
    header: str
    value: str
    authenticated: bool
    trailing: bool = False
    """The header comes behind the body."""

    async def play(self, connection: Http2, credential: Header) -> Answer:
        lines: list[Header] = [(self.header, value) for value in VALUES[self.value]]
        kept = [line for line in self.protocol.headers if line[0] != self.header]
        credentials = [credential] if self.authenticated and self.header != "authorization" else []
        trailers = lines if self.trailing else []
        return await connection.ask(
            [*(lines if not self.trailing else []), *kept, *credentials]
            if self.header.startswith(":")
            else [*kept, *credentials, *([] if self.trailing else lines)],
            self.protocol.body,
            method=self.protocol.method,
            path=self.protocol.path,
            trailers=trailers,
        )


def attacks() -> Iterator[Attack]:
    for protocol, header, value, authenticated in itertools.product(PROTOCOLS.values(), HEADERS, VALUES, (False, True)):
        yield Attack(protocol, header, value, authenticated)
    for header, value in itertools.product(("grpc-timeout", "grpc-previous-rpc-attempts", "any-bin"), VALUES):
        yield Attack(PROTOCOLS["gRPC"], header, value, authenticated=True, trailing=True)


async def play(mesh: Mesh, credential: Header) -> list[str]:
    """Plays all attacks over a few connections; returns those that nothing answered."""
    waiting, lost = attacks(), []

    async def attack() -> None:
        connection: Http2 | None = None
        for one in waiting:
            connection = connection or await Http2(mesh.ports["edge http"]).__aenter__()
            try:
                answer = await one.play(connection, credential)
            except TimeoutError:
                lost.append(str(one))
                answer = Answer(ended="closed")
            if answer.ended == "closed":
                await connection.__aexit__()
                connection = None
        if connection is not None:
            await connection.__aexit__()

    await asyncio.gather(*(attack() for _ in range(CONNECTIONS)))
    return lost


async def call_all(mesh: Mesh, credential: Header) -> tuple[list[str], list[float]]:
    """Makes good calls on every service, over REST and gRPC; returns the failures and how long each call took."""
    failures: list[str] = []
    seconds: list[float] = []

    async def caller(number: int) -> None:
        async with Http2(mesh.ports["edge http"]) as connection:
            for aggregate, turn in itertools.product(AGGREGATES, range(CALLS // CONNECTIONS + 1)):
                begun = time.perf_counter()
                if (number + turn) % 2:
                    service = f"/ameide.{aggregate.name.lower()}.v1.{aggregate.name}Service/List{aggregate.name}s"
                    # Deadlines differ, so each one is a new entry of the HPACK table.
                    deadline = ("grpc-timeout", f"{5000 + 100 * number + turn}m")
                    grpc = [deadline, *PROTOCOLS["gRPC"].headers]
                    answer = await connection.ask([credential, *grpc], EMPTY, method="POST", path=service)
                    good = answer.headers.get("grpc-status") == "0"
                else:
                    answer = await connection.ask([credential], path=aggregate.collection)
                    good = answer.outcome == "200"
                seconds.append(time.perf_counter() - begun)
                if not good:
                    failures.append(f"{aggregate.name}: {answer}")

    await asyncio.gather(*map(caller, range(CONNECTIONS)))
    return failures, seconds


@pytest.fixture
def credential(mesh: Mesh) -> Header:
    return "authorization", f"Bearer {token(mesh, 'polite', 'admin')}"


async def test_of_one_caller_harm_no_call_of_another(mesh: Mesh, credential: Header) -> None:
    before = await call_all(mesh, credential)
    assert before[0] == []
    assert await play(mesh, credential) == []
    slow = []
    for _ in range(ROUNDS):
        failures, seconds = await call_all(mesh, credential)
        assert failures == []
        assert len(seconds) >= CALLS * len(AGGREGATES)
        # Nine of ten: a machine that others use makes single calls slow, a broken connection all that take it.
        slow.append(quantiles(seconds, n=10)[-1] / quantiles(before[1], n=10)[-1])
        if slow[-1] <= 2:
            return
    pytest.fail(f"calls take longer than before by {slow}")
