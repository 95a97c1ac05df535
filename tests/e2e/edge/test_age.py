"""How old an answer may be, and how old it is, in each of the edge's languages (RFC 9111)."""

from collections.abc import Sequence
from typing import Any, Final

import pytest
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import USERS
from tests.e2e.edge.plugin import Edge

ID: Final = "019b7b1c-52ce-7c1e-8a54-3f6d2b9e4c10"
GET: Final = pb.GetUserRequest(id=ID).SerializeToString()
FRAME: Final = b"\0" + len(GET).to_bytes(4, "big") + GET
AGED: Final = "max-age=5"


async def kept(_: Any, context: Any) -> pb.User:
    """Answers from memory, as the services do."""
    said = dict(context.invocation_metadata())
    if said.get("cache-control") == AGED:
        age = (("age", "3"),)
        if "x-envoy-original-path" in said:
            await context.send_initial_metadata(age)
        else:
            context.set_trailing_metadata(age)
    return pb.User(id=ID)


@pytest.mark.parametrize("said", [AGED, "no-cache"])
@pytest.mark.parametrize("language", ["rest", "connect-json", "connect-proto", "tool"])
async def test_is_a_header_over_http(edge: Edge, backend: Backend, language: str, said: str) -> None:
    backend.script["GetUser"] = kept
    headers = {"cache-control": said}
    async with edge.client(headers=edge.credentials) as client:
        match language:
            case "rest":
                answer = await client.get(f"/v1/users/{ID}", headers=headers)
            case "connect-json":
                answer = await client.post(f"{USERS}/GetUser", json={"id": ID}, headers=headers)
            case "connect-proto":
                headers |= {"content-type": "application/proto"}
                answer = await client.post(f"{USERS}/GetUser", content=GET, headers=headers)
            case _:
                # Agents say it once for all calls, in the headers of their client, because arguments cost tokens.
                tool = {"name": "get_user", "arguments": {"id": ID}}
                message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": tool}
                answer = await client.post("/mcp", json=message, headers=headers)
    assert answer.status_code == 200
    assert (answer.headers.get("age"), "trailer-age" in answer.headers) == ("3" if said == AGED else None, False)


async def test_is_metadata_at_the_end_over_grpc_and_grpc_web(edge: Edge, backend: Backend) -> None:
    backend.script["GetUser"] = kept
    async with edge.channel() as channel:
        method = channel.unary_unary(f"{USERS}/GetUser", request_serializer=bytes, response_deserializer=bytes)
        call = method(GET, metadata=(*edge.credentials.items(), ("cache-control", AGED)))
        await call
        assert dict(await call.trailing_metadata() or ())["age"] == "3"
    async with edge.client(headers=edge.credentials) as client:
        headers = {"content-type": "application/grpc-web+proto", "cache-control": AGED}
        answer = await client.post(f"{USERS}/GetUser", content=FRAME, headers=headers)
    assert b"\r\nage:3\r\n" in answer.content


@pytest.mark.parametrize(
    ("said", "arrives"),
    [
        (["max-age=5"], AGED),
        (['Max-Age="5", no-transform'], AGED),
        (["no-transform", "max-age=5"], AGED),
        (["max-age=9999999999999"], "max-age=30"),
        *(
            (said, None)
            for said in (
                ["max-age=5", "max-age=5"],
                ["max-age=5", "no-cache"],
                ["max-age=5s"],
                ["no-store"],
                ["\u00e4"],
            )
        ),
    ],
)
async def test_that_is_accepted_reaches_services_in_one_form(
    edge: Edge, backend: Backend, said: Sequence[str], arrives: str | None
) -> None:
    async with edge.client(headers=edge.credentials) as client:
        headers = [(b"cache-control", value.encode()) for value in said]
        assert (await client.get(f"/v1/users/{ID}", headers=headers)).status_code == 200
    assert backend.calls[-1].metadata.get("cache-control") == arrives


async def test_a_page_of_another_origin_may_ask_for_and_read(edge: Edge, backend: Backend) -> None:
    origin = {"origin": "http://localhost:3000"}
    asked = {"access-control-request-method": "GET", "access-control-request-headers": "cache-control"}
    async with edge.client(headers=origin) as client:
        told = await client.options(f"/v1/users/{ID}", headers=asked)
        answer = await client.get(f"/v1/users/{ID}", headers=edge.credentials)
    assert "cache-control" in told.headers["access-control-allow-headers"].replace(" ", "").split(",")
    assert "age" in answer.headers["access-control-expose-headers"].replace(" ", "").split(",")
