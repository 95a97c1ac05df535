"""Package rpc holds the adapter between servicers and gRPC, and the layers that every call passes."""

from api_common.rpc.adapter import (
    COMPRESSED_BYTES,
    MAX_STREAM_SECONDS,
    Handler,
    method_handler,
    service_handler,
    unknown_method_handler,
)
from api_common.rpc.call import Call, Done, Incoming, Layer
from api_common.rpc.layers import Pipeline
from api_common.rpc.layers.effects import effects, record_denial
from api_common.rpc.layers.errors import errors
from api_common.rpc.layers.streaming import Streams
from api_common.rpc.layers.telemetry import AccessLog, telemetry
from api_common.rpc.layers.transaction import MAX_RESPONSE_BYTES

__all__ = [
    "COMPRESSED_BYTES",
    "MAX_RESPONSE_BYTES",
    "MAX_STREAM_SECONDS",
    "AccessLog",
    "Call",
    "Done",
    "Handler",
    "Incoming",
    "Layer",
    "Pipeline",
    "Streams",
    "effects",
    "errors",
    "method_handler",
    "record_denial",
    "service_handler",
    "telemetry",
    "unknown_method_handler",
]
