"""Orders to the process that makes the load, and its results."""

import json
from dataclasses import asdict, dataclass
from typing import Final, Literal

CONNECTIONS: Final = 4
IN_FLIGHT: Final = 8
"""Calls per connection; HTTP/1.1 has a connection for each."""

Transport = Literal["mtls", "grpc", "h1", "h2", "connect"]
"""gRPC as the edge speaks it to services, gRPC in plain text, REST over HTTP/1.1 and HTTP/2, Connect over HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Order:
    """Calls to make."""

    transport: Transport
    address: str
    work: str
    count: int
    rate: int = 0
    """Calls a second; 0 means as fast as answers arrive."""
    is_constant: bool = False
    """Whether every answer must equal the first one."""

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Result:
    """The duration of an order, and the latency of each call."""

    seconds: float
    latencies_ms: list[float]
