"""Converts a failed gRPC call into the error of its reason."""

import re
from typing import Final, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ameide_client.api_error import ApiError, Violation
from ameide_client.errors import BY_REASON

# What gRPC says of a call without an answer, and what it means, the surest sign first.
_CAUSES: Final = (
    ("Verification Check failed", "The server's certificate is for another host"),
    ("CERTIFICATE|certificate|handshake", "The server's certificate is not trusted"),
    ("DNS|resolv|[Dd]omain name", "The host is unknown"),
    ("refused", "Nothing listens at the address"),
    ("[Tt]imed? ?out|unreachable|No route", "The server cannot be reached"),
    ("Deadline", "No answer came within the timeout"),
)


def read_failure(failure: grpc.RpcError) -> ApiError:
    """Returns ``failure`` as the error to raise."""
    # The errors of both stacks of gRPC have these methods.
    call = cast(grpc.Call, failure)
    code, message = call.code(), call.details() or ""
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    retry, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    delay: float | None = None
    for detail in _status(call).details:
        detail.Unpack(info)
        detail.Unpack(request)
        detail.Unpack(bad)
        if detail.Unpack(retry):
            delay = retry.retry_delay.ToTimedelta().total_seconds()
    if not request.request_id:
        message = next((f"{meaning}: {message}" for sign, meaning in _CAUSES if re.search(sign, message)), message)
    # Errors without an answer (no connection, a deadline that passed here) get the reason that a server would send.
    reason = info.reason or (code.name if code.name in BY_REASON else "")
    return BY_REASON.get(reason, ApiError)(
        message,
        code=code,
        reason=reason,
        request_id=request.request_id,
        retry_after_seconds=delay,
        violations=tuple(Violation(one.field, one.description, one.reason) for one in bad.field_violations),
        metadata=dict(info.metadata),
    )


def _status(call: grpc.Call) -> status_pb2.Status:
    packed = dict(tuple(call.trailing_metadata() or ())).get("grpc-status-details-bin", b"")
    try:
        return status_pb2.Status.FromString(packed if isinstance(packed, bytes) else b"")
    except DecodeError:
        return status_pb2.Status()
