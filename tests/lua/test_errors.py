"""What `errors.lua` adds to gRPC errors: the bytes are google.rpc.Status."""

from typing import Final

import pytest
from api_common.errors import EDGE_REPLIES, ERROR_DOMAIN, EdgeReply
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from tests.lua.filters import Filter

ERRORS: Final = Filter("errors")
REPLIES: Final = {reply.http_status: reply for reply in EDGE_REPLIES}
# What gRPC says by itself in a service, and the reply that stands for it.
PLAIN: Final = {"4": 504, "8": 413, "12": 404, "14": 503, "1": 503, "2": 500, "3": 500, "13": 500}


def status_in(headers: dict[str, str]) -> status_pb2.Status:
    return status_pb2.Status.FromString(headers["grpc-status-details-bin"].encode("latin-1"))


class TestErrorOfTheEdge:
    @pytest.mark.parametrize("reply", EDGE_REPLIES, ids=lambda reply: str(reply.http_status))
    @pytest.mark.parametrize(
        "message", [None, "x" * 127, "x" * 128, "x" * 16_000], ids=["its own", "127", "128", "16000"]
    )
    def test_gets_its_details(self, reply: EdgeReply, message: str | None) -> None:
        said = message or reply.message
        headers = {"grpc-status": str(reply.code.value[0]), "grpc-message": said, "error-type": reply.reason}
        found = status_in(ERRORS.response(headers | {"error-id": "one", "retry-after": "1"}))
        info, request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.RequestInfo(),
            error_details_pb2.RetryInfo(),
        )
        for detail, message_ in zip(found.details, (info, request, retry), strict=True):
            assert detail.Unpack(message_)
        assert (found.code, found.message) == (reply.code.value[0], said)
        assert info == error_details_pb2.ErrorInfo(reason=reply.reason, domain=ERROR_DOMAIN)
        assert request == error_details_pb2.RequestInfo(request_id="one")
        assert retry == error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1))


class TestErrorOfGrpcItself:
    @pytest.mark.parametrize(("code", "status"), PLAIN.items())
    def test_gets_the_words_of_the_registry(self, code: str, status: int) -> None:
        headers = ERRORS.response({"grpc-status": code, "grpc-message": "Exception iterating", "x-request-id": "one"})
        reply = REPLIES[status]
        assert headers["grpc-status"] == str(reply.code.value[0])
        assert (headers["grpc-message"], headers["error-type"]) == (reply.message, reply.reason)
        assert headers["error-id"] == "one"
        found = status_in(headers)
        assert (found.code, found.message) == (reply.code.value[0], reply.message)


@pytest.mark.parametrize(
    "headers",
    [{":status": "200"}, {"grpc-status": "0"}, {"grpc-status": "5", "grpc-status-details-bin": "CAU="}],
    ids=["no gRPC", "success", "complete"],
)
def test_leaves_alone(headers: dict[str, str]) -> None:
    assert ERRORS.response(headers) == headers
