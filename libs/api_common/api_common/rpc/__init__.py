"""Package rpc holds the adapter between servicers and gRPC, and the layers that every call passes."""

from api_common.rpc.adapter import (
    COMPRESSED_BYTES,
    MAX_STREAM_SECONDS,
    Call,
    Handler,
    Layer,
    method_handler,
    service_handler,
    unknown_method_handler,
)
from api_common.rpc.layers import Pipeline
from api_common.rpc.layers.audit import audit
from api_common.rpc.layers.business_events import business_events
from api_common.rpc.layers.errors import errors
from api_common.rpc.layers.streaming import Streams
from api_common.rpc.layers.telemetry import telemetry
from api_common.rpc.layers.transaction import MAX_RESPONSE_BYTES

__all__ = [
    "COMPRESSED_BYTES",
    "MAX_RESPONSE_BYTES",
    "MAX_STREAM_SECONDS",
    "Call",
    "Handler",
    "Layer",
    "Pipeline",
    "Streams",
    "audit",
    "business_events",
    "errors",
    "method_handler",
    "service_handler",
    "telemetry",
    "unknown_method_handler",
]
