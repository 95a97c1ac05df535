"""What the edge does with `x-api-key`: it asks, and passes on what it is told."""

import asyncio
import time
from typing import Any

import grpc
import httpx
import pytest
from ameide.edge.v1 import ext_authz_pb2 as pb
from api_common.authn import INTERNAL_ISSUER

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import CALLERS, REPLIES, USERS, Ask, http_status_of, rest_refusal
from tests.e2e.edge.plugin import Edge, Issuer

KEY = "ameide_key"


def passing(token: str, *, removing: tuple[str, ...] = ("x-api-key",)) -> Any:
    async def check(request: Any, context: Any) -> pb.CheckResponse:
        header = pb.HeaderValue(key="authorization", value=f"Bearer {token}")
        option = pb.HeaderValueOption(header=header, append_action=2)
        return pb.CheckResponse(ok_response=pb.OkHttpResponse(headers=[option], headers_to_remove=removing))

    return check


def refusing(http_status: int) -> Any:
    async def check(request: Any, context: Any) -> pb.CheckResponse:
        denied = pb.DeniedHttpResponse(status=pb.HttpStatus(code=http_status))
        return pb.CheckResponse(status=pb.Status(code=16 if http_status == 401 else 8), denied_response=denied)

    return check


async def test_a_request_without_a_key_is_asked_about_by_nobody(rest: httpx.AsyncClient, backend: Backend) -> None:
    assert (await rest.get("/v1/me")).status_code == 200
    assert [call.method for call in backend.calls] == ["GetMe"]


@pytest.mark.parametrize("removing", [("x-api-key",), ()], ids=["told to", "not told to"])
async def test_a_service_sees_the_token_and_never_the_key(
    anonymous: httpx.AsyncClient, backend: Backend, issuer: Issuer, removing: tuple[str, ...]
) -> None:
    token = issuer.token(iss=INTERNAL_ISSUER, exp=issuer.now() + 60)
    backend.script["Check"] = passing(token, removing=removing)
    response = await anonymous.get("/v1/me", headers={"x-api-key": KEY, "cookie": "a=b"})
    assert response.status_code == 200, response.text
    check, call = backend.calls
    assert check.method == "Check"
    assert dict(check.request.attributes.request.http.headers) == {"x-api-key": KEY}
    assert call.metadata["authorization"] == f"Bearer {token}"
    assert "x-api-key" not in call.metadata
    assert KEY not in str(call.metadata)


@pytest.mark.parametrize(
    "claims",
    [{"iss": "https://other.example/"}, {"exp": None}, {"exp": 1}, {"aud": "other"}, {"lifetime": 90}],
    ids=str,
)
async def test_a_token_that_does_not_hold_lets_nobody_in(
    anonymous: httpx.AsyncClient, backend: Backend, issuer: Issuer, claims: dict[str, Any]
) -> None:
    lifetime = claims.pop("lifetime", 60)
    token = issuer.token(**{"iss": INTERNAL_ISSUER, "exp": issuer.now() + lifetime} | claims)
    backend.script["Check"] = passing(token)
    response = await anonymous.get("/v1/me", headers={"x-api-key": KEY})
    rest_refusal(response).is_row(REPLIES[401], http_status=401)
    assert [call.method for call in backend.calls] == ["Check"]


async def test_a_key_that_nobody_can_check_now_is_an_outage(anonymous: httpx.AsyncClient, backend: Backend) -> None:
    async def fail(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the database is away")

    backend.script["Check"] = fail
    response = await anonymous.get("/v1/me", headers={"x-api-key": KEY})
    rest_refusal(response).is_row(REPLIES[503], http_status=503)
    assert "database" not in response.text


@pytest.mark.parametrize("path", ["/v1/me", "/v1/nothing", "/ameide.user.v1.UserService/GetMe", "/x"])
async def test_a_refused_key_is_refused_on_every_path(
    edge: Edge, anonymous: httpx.AsyncClient, backend: Backend, path: str
) -> None:
    backend.script["Check"] = refusing(401)
    response = await anonymous.get(path, headers={"x-api-key": KEY})
    rest_refusal(response).is_row(REPLIES[401], http_status=401)
    assert [call.method for call in backend.calls] == ["Check"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
async def test_the_address_of_a_key_is_the_peers_and_never_what_a_header_says(
    edge: Edge, backend: Backend, address: str
) -> None:
    backend.script["Check"] = refusing(401)
    transport = httpx.AsyncHTTPTransport(local_address=address)
    spoofed = {"x-forwarded-for": "203.0.113.1", "x-real-ip": "203.0.113.1", "forwarded": "for=203.0.113.1"}
    async with httpx.AsyncClient(transport=transport, base_url=edge.url) as client:
        await client.get("/v1/me", headers={"x-api-key": KEY, **spoofed})
    (check,) = backend.calls
    assert check.request.attributes.source.address.socket_address.address == address


async def test_too_many_wrong_keys_of_an_address_are_told_to_wait_in_every_language(
    edge: Edge, backend: Backend
) -> None:
    backend.script["Check"] = refusing(429)
    for language, ask in CALLERS.items():
        refusal = await ask(edge, Ask("/v1/me", f"{USERS}/GetMe", {"x-api-key": KEY}))
        refusal.is_row(REPLIES[429], http_status=http_status_of(REPLIES[429], language))
        assert refusal.headers["retry-after"] == "1"
    assert {call.method for call in backend.calls} == {"Check"}


async def test_of_many_keys_at_once_few_are_asked_about(edge: Edge, backend: Backend) -> None:
    answer = asyncio.Event()

    async def check(request: Any, context: Any) -> Any:
        await answer.wait()
        return await refusing(401)(request, context)

    backend.script["Check"] = check
    # One connection, so one worker counts.
    transport = httpx.AsyncHTTPTransport(http1=False, http2=True, local_address="127.0.0.3")
    async with edge.client(transport=transport, headers={"x-api-key": KEY}) as client:
        began = time.monotonic()
        asks = [asyncio.create_task(client.get("/v1/me")) for _ in range(400)]
        # Those beyond the bound are answered while the others wait; on a busy machine these may give up meanwhile.
        await asyncio.wait(asks, return_when=asyncio.FIRST_COMPLETED)
        answer.set()
        responses = await asyncio.gather(*asks)
        seconds = time.monotonic() - began
    assert len(backend.calls) <= (int(seconds) + 2) * 50
    assert {429} <= {response.status_code for response in responses} <= {401, 429, 503}


async def test_a_key_that_has_worked_goes_on_whoever_else_is_behind_the_address(
    edge: Edge, backend: Backend, issuer: Issuer
) -> None:
    token = issuer.token(iss=INTERNAL_ISSUER, exp=issuer.now() + 60)
    one = httpx.Limits(max_connections=1)  # So one worker counts.
    async with edge.client(transport=httpx.AsyncHTTPTransport(limits=one, local_address="127.0.0.4")) as client:

        async def ask(key: str, check: Any) -> int:
            backend.script["Check"] = check
            return (await client.get("/v1/me", headers={"x-api-key": key})).status_code

        assert await ask("ameide_good", passing(token)) == 200
        for _ in range(5):
            # What is refused slowly, on a busy machine, may never be too much.
            if 429 in [await ask("ameide_wrong", refusing(401)) for _ in range(60)]:
                break
        assert await ask("ameide_good", passing(token)) == 200


async def test_after_fifty_wrong_keys_of_an_address_nobody_is_asked_about_more(edge: Edge, backend: Backend) -> None:
    """Two workers count for themselves, each by the second."""
    backend.script["Check"] = refusing(401)
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.5")
    async with edge.client(transport=transport, headers={"x-api-key": KEY}) as client:
        began = time.monotonic()
        statuses = [
            response.status_code
            for _ in range(15)
            for response in await asyncio.gather(*(client.get("/v1/me") for _ in range(20)))
        ]
        seconds = time.monotonic() - began
    assert set(statuses) <= {401, 429}
    # A machine slower than the limit is refused none; tests/lua/test_keys.py does not depend on it.
    assert 429 in statuses or len(statuses) < (seconds + 1) * 2 * 50
    assert len(backend.calls) == statuses.count(401) <= (int(seconds) + 2) * 2 * 50
