"""A resource that a client has already is not sent again (RFC 9110, section 13.1.2)."""

from typing import Any, Final

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.rpc import NOT_MODIFIED

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge

TAG: Final = '"7"'


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_is_answered_without_a_body(edge: Edge, backend: Backend, http2: bool) -> None:
    async def known(_request: Any, context: Any) -> pb.User:
        await context.send_initial_metadata((("etag", TAG), (NOT_MODIFIED, "true")))
        return pb.User()

    backend.script["GetMe"] = known
    async with edge.client(headers=edge.credentials, http1=not http2, http2=http2) as client:
        for method in ("GET", "HEAD"):
            answer = await client.request(method, "/v1/me", headers={"if-none-match": TAG})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", TAG)
            assert not {"content-length", "content-type", "transfer-encoding", NOT_MODIFIED} & set(answer.headers)
        # The connection is as good as before.
        del backend.script["GetMe"]
        assert (await client.get("/v1/me")).json()["displayName"] == ""


@pytest.mark.parametrize(
    ("said", "arrives"),
    [
        *((value, True) for value in ("*", '"a"', 'W/"a"', '"a", W/"b" ,"c"', '""', '"a,b"')),
        *(
            (value, False)
            for value in ("a", '"a" "b"', '"a"b"', 'w/"a"', '"a",', "*, *", '"\u00e4"', '"a"' + " " * 9000 + "x")
        ),
    ],
)
async def test_what_services_get_to_compare_is_a_list_of_tags(
    edge: Edge, backend: Backend, said: str, arrives: bool
) -> None:
    async with edge.client(headers=edge.credentials) as client:
        headers = {b"if-none-match": said.encode()}
        assert (await client.get("/v1/me", headers=headers)).status_code == 200
    assert ("if-none-match" in backend.calls[0].metadata) is arrives


async def test_is_nothing_that_a_client_of_grpc_is_told(edge: Edge, backend: Backend) -> None:
    async with edge.channel() as channel:
        method = channel.unary_unary(f"{USERS}/GetMe", request_serializer=bytes, response_deserializer=bytes)
        call = method(b"", metadata=(*edge.credentials.items(), ("if-none-match", "*"), (NOT_MODIFIED, "true")))
        assert await call == b""
    assert NOT_MODIFIED not in backend.calls[0].metadata
