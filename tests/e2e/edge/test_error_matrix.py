"""Every error that there is, in every language of the edge: the same facts, whichever layer refuses.

The rows come from the registry: a new error, or a new reply of the edge, is here without anybody thinking of it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

import grpc
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common import errors
from api_common.errors import (
    EDGE_REPLIES,
    MAX_DETAILS_BYTES,
    REGISTRY,
    DomainError,
    EdgeReply,
    FieldViolation,
    ResourceInfo,
    render,
    spec_of,
)
from google.protobuf.json_format import MessageToDict
from google.rpc import error_details_pb2

from tests.architecture.test_reasons import error_classes
from tests.e2e.edge.backend import Answer, Backend
from tests.e2e.edge.callers import CALLERS, CONNECT, LEAKS, USERS, Ask, Refusal, ask_tool, http_status_of
from tests.e2e.edge.plugin import Edge, Layout, running

LANGUAGES: Final = {**CALLERS, "mcp": ask_tool}
SECRET: Final = "ValueError: SELECT secret FROM users at 10.0.0.1:5432"
PROBE: Final = """
function envoy_on_request(handle)
  local status = (handle:headers():get("idempotency-key") or ""):match("^%s (%%d+)$")
  if status then
    handle:respond({[":status"] = status}, "%s")
  end
end
"""


@pytest.fixture(scope="module")
async def probed(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """The edge with two filters more, before the transcoder and before the router, that refuse with any status."""

    def change(manager: Any) -> None:
        filters = manager["http_filters"]
        names = [one["name"].removeprefix("envoy.filters.http.") for one in filters]
        for place, before in (("late", "router"), ("early", "grpc_json_transcoder")):
            lua = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
            code = {"@type": lua, "default_source_code": {"inline_string": PROBE % (place, SECRET)}}
            probe = {"name": f"envoy.filters.http.lua.{place}", "typed_config": code}
            filters.insert(names.index(before), probe)

    async with running(layout("probed", 2, change)) as result:
        yield result


def an_error(kind: type[DomainError]) -> DomainError:
    """Returns an error that knows all that one can know."""
    return kind(
        "This cannot be done.",
        metadata={"limit": "10"},
        violations=[FieldViolation("user.display_name", "must be short", "TOO_LONG")],
        resource=ResourceInfo("user", "u1"),
        retry_after_seconds=1,
    )


def failing(error: DomainError) -> Answer:
    """Returns what a service does that raises ``error``."""

    async def fail(_request: pb.GetMeRequest, context: Any) -> None:
        said = dict(tuple(context.invocation_metadata()))
        from_rest = "x-envoy-original-path" in said
        code, message, trailers = render(error, request_id=said["x-request-id"], json_names=from_rest)
        await context.abort_with_status(SimpleNamespace(code=code, details=message, trailing_metadata=trailers))

    return fail


async def ask_everybody(edge: Edge, headers: dict[str, str]) -> dict[str, Refusal]:
    """Asks the same in each language, under one request id, and checks what all answers share."""
    request_id = str(uuid4())
    ask = Ask("/v1/me", f"{USERS}/GetMe", {**edge.credentials, "x-request-id": request_id, **headers})
    answers = await asyncio.gather(*(call(edge, ask) for call in LANGUAGES.values()))
    refusals = dict(zip(LANGUAGES, answers, strict=True))
    for language, refusal in refusals.items():
        said = refusal.headers
        assert (said["x-request-id"], said["error-id"], refusal.request_id) == (request_id,) * 3, language
        assert said["error-type"] == refusal.reason, language
        # As JSON: the bytes of packed details differ with the order of a map, which is nobody's promise.
        expected = MessageToDict(refusals["grpc"].status)
        if refusal.is_rest or language == "connect-json":
            # Fields have the names of JSON there.
            expected = json.loads(json.dumps(expected).replace("user.display_name", "user.displayName"))
        if refusal.is_rest and (refusals["rest"].http_status, refusal.reason) == (404, "METHOD_NOT_FOUND"):
            expected["code"] = 5
        assert MessageToDict(refusal.status) == expected, language
        assert not LEAKS.search(str(refusal.status)), language
    return refusals


def http_statuses(refusals: dict[str, Refusal]) -> dict[str, int]:
    return {language: refusal.http_status for language, refusal in refusals.items()}


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
async def test_of_a_service_is_the_same_in_every_language(
    edge: Edge, backend: Backend, kind: type[DomainError]
) -> None:
    error = an_error(kind)

    backend.script["GetMe"] = failing(error)
    refusals = await ask_everybody(edge, {})
    row = spec_of(error)
    in_connect = CONNECT[row.code.value[0]][1]
    assert http_statuses(refusals) == {
        "rest": row.http_status,
        "rest-h2": row.http_status,
        "grpc": 200,
        "grpc-web": 200,
        "connect-proto": in_connect,
        "connect-json": in_connect,
        "mcp": 401 if row.http_status == 401 else 200,
    }
    said = refusals["grpc"].status
    assert (said.code, said.message) == (row.code.value[0], "This cannot be done. user.display_name must be short.")
    assert refusals["grpc"].reason == kind.reason
    names = [detail.TypeName().removeprefix("google.rpc.") for detail in said.details]
    assert names == ["ErrorInfo", "RequestInfo", "RetryInfo", "ResourceInfo", "BadRequest"]


async def test_with_five_hundred_long_violations_reaches_everybody(edge: Edge, backend: Backend) -> None:
    long = "x" * 400
    error = errors.ValidationError(
        long * 2,
        metadata={f"k{number}": long for number in range(20)},
        violations=[FieldViolation(f"user.roles[{number}].{long}", long, "INVALID_VALUE") for number in range(500)],
        resource=ResourceInfo("user", long),
    )
    backend.script["GetMe"] = failing(error)
    refusals = await ask_everybody(edge, {})
    said = refusals["grpc"].status
    assert 4096 < said.ByteSize() <= MAX_DETAILS_BYTES
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert said.details[0].Unpack(info)
    assert said.details[-1].Unpack(bad_request)
    assert info.metadata["truncated"] == "true"
    assert bad_request.field_violations[-1].description.endswith(" more")


@pytest.mark.parametrize("place", ["early", "late"])
@pytest.mark.parametrize("reply", EDGE_REPLIES, ids=lambda reply: str(reply.http_status))
async def test_of_the_edge_is_the_same_in_every_language(probed: Edge, reply: EdgeReply, place: str) -> None:
    status = reply.http_status
    refusals = await ask_everybody(probed, {"idempotency-key": f"{place} {status}"})
    for refusal in refusals.values():
        code = reply.rest_code if refusal.is_rest else reply.code
        assert (refusal.code, refusal.reason, refusal.message) == (code.value[0], reply.reason, reply.message)
    assert http_statuses(refusals) == {language: http_status_of(reply, language) for language in LANGUAGES}


@pytest.mark.parametrize(("status", "row"), [(402, 400), (418, 400), (499, 400), (505, 500), (599, 500)])
async def test_of_the_edge_that_nobody_thought_of_has_our_shape(probed: Edge, status: int, row: int) -> None:
    reply = next(one for one in EDGE_REPLIES if one.http_status == row)
    for refusal in (await ask_everybody(probed, {"idempotency-key": f"early {status}"})).values():
        assert (refusal.code, refusal.reason, refusal.message) == (reply.code.value[0], reply.reason, reply.message)


def test_every_code_that_can_occur_is_reached() -> None:
    reached = {spec_of(an_error(kind)).code for kind in error_classes()} | {reply.code for reply in EDGE_REPLIES}
    # What gRPC itself says for an exception that nobody caught becomes INTERNAL on its way (test_errors.py).
    assert set(grpc.StatusCode) - reached == {grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN}
    assert {spec.error for spec in REGISTRY} <= set(error_classes())
