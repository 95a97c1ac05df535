"""Headers that HTTP/2, Envoy and gRPC core interpret."""

from itertools import cycle, product
from typing import Final

from bench.attack.attacker import Attack, Attacker
from bench.attack.http2 import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    Headers,
    Pool,
    bearer,
    block,
    frame,
    get,
    grpc,
    message,
)
from bench.attack.services import COLLECTIONS, rpc

NAMES: Final = (
    *("grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "te", "content-type", "user-agent", "grpc-tags-bin"),
    *("grpc-trace-bin", "grpc-previous-rpc-attempts", "grpc-retry-pushback-ms", "grpc-message-type", "grpc-status"),
    *("grpc-message", "grpc-status-details-bin", "grpc-internal-encoding-request", "lb-token", "lb-cost-bin"),
    *("x-endpoint-load-metrics-bin", "grpc-server-stats-bin", "grpclb_client_stats", "content-encoding"),
    *("accept-encoding", "content-length", "expect", "trailer", "priority", "x-envoy-upstream-rq-timeout-ms"),
    *("x-envoy-retry-on", "x-envoy-max-retries", "x-request-id", "traceparent", "tracestate", "baggage", "b3"),
    *("idempotency-key", "if-match", "origin", "access-control-request-method", "x-forwarded-for", "host", "range"),
)
VALUES: Final = (
    *(b"", b"xx", b"1", b"99999999999999999999S", b"-1S", b" 5S", b"5S, 5S", b"1n", b"\xff\xfe", b"a\x01b", b"a\tb"),
    *(b"x" * 8000, b"gzip", b"zstd", b"identity,", b"AAAA=", b"%00", b"chunked", b"application/grpc+json", b"0x10"),
)
FOREIGN: Final = (("origin", "https://evil.example"), ("access-control-request-method", "POST"))


def ways(path: str, token: str) -> dict[str, Headers]:
    """Returns a request in each of the edge's languages, with and without a credential."""
    web = ("content-type", "application/grpc-web+proto")
    return {
        "grpc": grpc(path, bearer(token)),
        "grpc, nobody": grpc(path),
        "grpc-web": get(path, web, bearer(token), method="POST"),
        "preflight": get(path, *FOREIGN, method="OPTIONS"),
        "health": get("/healthz"),
        "rest": get(f"/v1/{COLLECTIONS[0]}", bearer(token)),
    }


async def bad_headers(attacker: Attacker) -> None:
    """Sends every header with every bad value in every language, to one service after the other."""
    pool = Pool(attacker)
    matrix = product(VALUES, NAMES, range(6))
    async for number in attacker.paced(len(VALUES) * len(NAMES) * 6, rate=150):
        value, name, way = next(matrix)
        path = rpc(COLLECTIONS[number % len(COLLECTIONS)], "List")
        headers = list(ways(path, attacker.token()).values())[way]
        connection = await pool.get(streams=100)
        body = message(b"") if "POST" in dict(headers).values() else None
        await connection.begin([*headers, (name, value)], body)


async def foreign_preflights(attacker: Attacker) -> None:
    """Sends preflights of a foreign origin with a time-out that gRPC core cannot read, without a credential."""
    pool = Pool(attacker)
    async for number in attacker.paced(2000, rate=100):
        path = rpc(COLLECTIONS[number % len(COLLECTIONS)], "List")
        extra = (*FOREIGN, ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "xx"))
        await (await pool.get(streams=100)).begin(get(path, *extra, method="OPTIONS"))


async def bad_timeouts(attacker: Attacker) -> None:
    """Sends native calls with a token and a time-out that gRPC core cannot read, each a little different."""
    pool = Pool(attacker)
    async for number in attacker.paced(2000, rate=100):
        path = rpc(COLLECTIONS[number % len(COLLECTIONS)], "List")
        headers = grpc(path, bearer(attacker.token()), ("grpc-timeout", f"{number}xx"))
        await (await pool.get(streams=100)).begin(headers, message(b""))


async def bad_trailers(attacker: Attacker) -> None:
    """Ends native calls with trailers that gRPC core interprets, which no list of headers sees."""
    pool = Pool(attacker)
    matrix = cycle(product(VALUES, NAMES))
    async for number in attacker.paced(2000, rate=100):
        connection, (value, name) = await pool.get(streams=100), next(matrix)
        headers = grpc(rpc(COLLECTIONS[number % len(COLLECTIONS)], "List"), bearer(attacker.token()))
        stream = await connection.begin(headers, message(b""), ends=False)
        trailers = block([(name, value), ("grpc-timeout", f"{number}xx")])
        await connection.send(frame(HEADERS, trailers, flags=END_HEADERS | END_STREAM, stream=stream))


ATTACKS: Final = (
    Attack("bad transport headers", bad_headers, seconds=15),
    Attack("foreign preflights", foreign_preflights),
    Attack("bad grpc-timeout", bad_timeouts),
    Attack("bad trailers", bad_trailers),
)
