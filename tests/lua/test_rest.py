"""What `rest.lua` corrects in responses to REST clients."""

from typing import Final

import pytest

from tests.lua.filters import Filter

REST: Final = Filter("rest")
OF_GRPC: Final = {"grpc-status": "0", "grpc-message": "", "grpc-encoding": "gzip", "grpc-accept-encoding": "gzip"}


class TestResponse:
    def test_of_a_large_message_is_413(self) -> None:
        large = {":status": "429", "error-type": "PAYLOAD_TOO_LARGE", "content-type": "application/json"}
        assert REST.response(large)[":status"] == "413"

    @pytest.mark.parametrize("reason", ["RATE_LIMITED", "QUOTA_EXCEEDED"])
    def test_of_another_refusal_keeps_its_status(self, reason: str) -> None:
        assert REST.response({":status": "429", "error-type": reason})[":status"] == "429"

    @pytest.mark.parametrize(
        "content_type", ["application/json", "application/json; charset=utf-8", "text/event-stream"]
    )
    def test_has_no_headers_of_grpc(self, content_type: str) -> None:
        assert REST.response({"content-type": content_type, **OF_GRPC}) == {"content-type": content_type}

    def test_of_grpc_keeps_them(self) -> None:
        headers = {"content-type": "application/grpc", "etag": "1", **OF_GRPC}
        assert REST.response(headers) == headers

    def test_keeps_its_etag_beside_the_compressor(self) -> None:
        headers = {"content-type": "application/json", "etag": '"1"'}
        assert REST.response(headers) == {**headers, "x-ameide-etag": '"1"'}

    def test_without_a_content_type_passes(self) -> None:
        assert REST.response({":status": "204"}) == {":status": "204"}
