"""Reads errors as a client does: from the status and its details."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, get_args

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from api_common.errors import ViolationReason

NEVER: Final = "01900000-0000-7000-8000-000000000000"
"""A well-formed id that no resource has."""


@dataclass(slots=True)
class Refusal:
    """What a client learns from an error."""

    message: str = ""
    """The sentence for people."""
    violations: dict[str, str] = field(default_factory=dict)
    """Description by field."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Reason by field."""
    metadata: dict[str, str] = field(default_factory=dict)
    """The metadata of the `ErrorInfo`."""
    request_id: str = ""
    """The id in the `RequestInfo`."""
    payload: bytes = b""
    """The whole `google.rpc.Status` but for the request id, to compare two answers with."""


@contextmanager
def refused(code: grpc.StatusCode, reason: str) -> Iterator[Refusal]:
    """Expects the block to be refused with ``code`` and ``reason``; the value is filled in when the block ends."""
    refusal = Refusal()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        yield refusal
    error = caught.value
    trailers = dict(tuple(error.trailing_metadata() or ()))
    status = status_pb2.Status.FromString(bytes(trailers["grpc-status-details-bin"]))
    info, request = error_details_pb2.ErrorInfo(), error_details_pb2.RequestInfo()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(request)
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request):
            refusal.violations = {entry.field: entry.description for entry in bad_request.field_violations}
            refusal.reasons = {entry.field: entry.reason for entry in bad_request.field_violations}
    assert set(refusal.reasons.values()) <= set(get_args(ViolationReason))
    assert (error.code(), info.reason) == (code, reason), f"{error.details()} {refusal.violations}"
    assert status.code == code.value[0]
    assert status.message == error.details()
    assert (info.domain, trailers["error-type"], trailers["error-id"]) == ("ameide.dev", reason, request.request_id)
    refusal.message = status.message
    refusal.metadata = dict(info.metadata)
    refusal.request_id = request.request_id
    refusal.payload = status.SerializeToString().replace(request.request_id.encode(), b"")
