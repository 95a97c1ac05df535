"""Package rpc holds the adapter between servicers and gRPC, and the layers that every call passes."""

from api_common.rpc.adapter import COMPRESSED_BYTES, MAX_STREAM_SECONDS, NOT_MODIFIED, unknown_method_handler
from api_common.rpc.call import Call, Done, Layer
from api_common.rpc.layers import Pipeline
from api_common.rpc.layers.admission import REASONS_BY_RULE, Shares
from api_common.rpc.layers.streaming import Streams
from api_common.rpc.layers.telemetry import AccessLog
from api_common.rpc.layers.transaction import MAX_RESPONSE_BYTES

__all__ = [
    "COMPRESSED_BYTES",
    "MAX_RESPONSE_BYTES",
    "MAX_STREAM_SECONDS",
    "NOT_MODIFIED",
    "REASONS_BY_RULE",
    "AccessLog",
    "Call",
    "Done",
    "Layer",
    "Pipeline",
    "Shares",
    "Streams",
    "unknown_method_handler",
]
