"""What the edge says by itself: the same in every language, and never in Envoy's own words."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import CredentialFault
from google.rpc import error_details_pb2, status_pb2

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import CALLERS, REPLIES, USERS, Ask, ask_grpc, ask_rest, http_status_of
from tests.e2e.edge.plugin import Edge, Issuer
from tests.e2e.edge.test_api_keys import refusing

ME = Ask("/v1/me", f"{USERS}/GetMe")


@pytest.fixture(params=CALLERS)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def http(language: str, status: int) -> int:
    return http_status_of(REPLIES[status], language)


class TestRefusal:
    async def test_rejects_anonymous(self, edge: Edge, language: str) -> None:
        refusal = await CALLERS[language](edge, ME)
        refusal.is_row(REPLIES[401], http_status=http(language, 401))
        assert refusal.message == REPLIES[401].message
        assert refusal.headers["www-authenticate"].startswith("Bearer resource_metadata=")

    @pytest.mark.parametrize("fault", [*CredentialFault, None], ids=lambda fault: fault.name if fault else "secret")
    async def test_says_what_the_bearer_can_find_out_alone(
        self, edge: Edge, issuer: Issuer, backend: Backend, language: str, fault: CredentialFault | None
    ) -> None:
        backend.script["Check"] = refusing(401)
        good = f"Bearer {edge.token}"
        headers = {
            CredentialFault.SEVERAL: [{"authorization": f"{good},Bearer x"}, {"authorization": good, "x-api-key": "x"}],
            CredentialFault.API_KEY: [{"x-api-key": "x"}],
            CredentialFault.SCHEME: [{"authorization": f"Basic {edge.token}"}, {"authorization": f"{good} x"}],
            CredentialFault.MALFORMED: [{"authorization": "Bearer a.b.c"}, {"authorization": "Bearer x"}],
            CredentialFault.EXPIRED: [{"authorization": f"Bearer {issuer.token(exp=issuer.now() - 60)}"}],
            CredentialFault.ISSUER: [{"authorization": f"Bearer {issuer.token(iss='https://elsewhere.example/')}"}],
            CredentialFault.KEY: [{"authorization": f"Bearer {issuer.token(key_id='unknown')}"}],
            None: [
                {"authorization": f"{good[:-9]}AAAAAAAAA"},
                {"authorization": f"Bearer {issuer.token(tenant_id=None)}"},
                {"authorization": f"Bearer {issuer.token(aud='somebody-else')}"},
            ],
        }
        for each in headers[fault]:
            refusal = await CALLERS[language](edge, Ask(ME.rest, ME.rpc, each))
            refusal.is_row(REPLIES[401], http_status=http(language, 401))
            assert refusal.message == " ".join(filter(None, (REPLIES[401].message, fault))), each

    async def test_of_a_wrong_audience_is_unauthenticated(self, edge: Edge, issuer: Issuer, language: str) -> None:
        headers = {"authorization": f"Bearer {issuer.token(aud='somebody-else')}"}
        refusal = await CALLERS[language](edge, Ask(ME.rest, ME.rpc, headers))
        refusal.is_row(REPLIES[401], http_status=http(language, 401))

    async def test_of_an_unknown_method(self, edge: Edge, language: str) -> None:
        refusal = await CALLERS[language](edge, Ask("/v1/nothing", "/no.such.Service/Method", edge.credentials))
        refusal.is_row(REPLIES[404], http_status=http(language, 404))

    async def test_when_the_service_is_down(self, edge: Edge, language: str) -> None:
        ask = Ask("/v1/workflows", "/ameide.workflow.v1.WorkflowService/ListWorkflows", edge.credentials)
        refusal = await CALLERS[language](edge, ask)
        refusal.is_row(REPLIES[503], http_status=http(language, 503))

    async def test_of_a_message_that_is_too_large(self, edge: Edge, language: str) -> None:
        ask = Ask("/v1/users", f"{USERS}/CreateUser", edge.credentials, body_bytes=10 * MIB + 1)
        refusal = await CALLERS[language](edge, ask)
        refusal.is_row(REPLIES[413], http_status=http(language, 413))

    async def test_of_headers_that_are_too_large(self, edge: Edge, language: str) -> None:
        refusal = await CALLERS[language](edge, Ask(ME.rest, ME.rpc, edge.credentials | {"x-long": "x" * 17_000}))
        refusal.is_row(REPLIES[431], http_status=http(language, 431))

    async def test_when_the_deadline_passes(self, impatient: Edge, backend: Backend, language: str) -> None:
        async def never(_request: Any, _context: Any) -> pb.User:
            await asyncio.Event().wait()
            return pb.User()

        backend.script["GetMe"] = never
        refusal = await CALLERS[language](impatient, Ask(ME.rest, ME.rpc, impatient.credentials))
        refusal.is_row(REPLIES[504], http_status=http(language, 504))

    # Over HTTP/2 the same bucket is asked; test_error_matrix.py has its answer.
    @pytest.mark.parametrize("language", ["rest", "grpc", "grpc-web", "connect-proto"], indirect=True)
    async def test_of_one_request_too_many(self, impatient: Edge, language: str) -> None:
        ask = Ask("/v1/nothing", "/no.such.Service/Method", impatient.credentials)
        refusals = await asyncio.gather(*(CALLERS[language](impatient, ask) for _ in range(200)))
        limited = [refusal for refusal in refusals if refusal.reason == "RATE_LIMITED"]
        assert 0 < len(limited) < len(refusals)
        limited[0].is_row(REPLIES[429], http_status=http(language, 429))
        assert limited[0].headers["retry-after"] == "1"
        # The bucket may fill between a refusal and its headers.
        assert "0" in {refusal.headers["x-ratelimit-remaining"] for refusal in limited}

        deadline = time.monotonic() + 20
        while (await CALLERS[language](impatient, ask)).reason == "RATE_LIMITED":
            assert time.monotonic() < deadline, "the bucket does not fill again"

    async def test_when_the_request_does_not_arrive(self, impatient: Edge) -> None:
        # From an address whose bucket the test above has not emptied.
        reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port, local_addr=("127.0.0.2", 0))
        writer.write(
            f"POST /v1/users HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {impatient.token}\r\n"
            "content-length: 10\r\n\r\n{".encode()
        )
        answer = (await asyncio.wait_for(reader.read(), 10)).decode()
        writer.close()
        assert answer.startswith("HTTP/1.1 408 ")
        assert REPLIES[408].message in answer


class TestErrorOfAService:
    async def test_passes_whole(self, edge: Edge, rest: httpx.AsyncClient, backend: Backend) -> None:
        status = status_pb2.Status(code=9, message="The user is not active.")
        for detail in (
            error_details_pb2.ErrorInfo(reason="INVALID_STATE", domain="ameide.dev", metadata={"state": "SUSPENDED"}),
            error_details_pb2.RequestInfo(request_id="1"),
        ):
            status.details.add().Pack(detail)
        sent = status.SerializeToString()

        async def fail(_request: Any, context: Any) -> None:
            trailers = (("grpc-status-details-bin", sent), ("error-type", "INVALID_STATE"), ("error-id", "1"))
            code = grpc.StatusCode.FAILED_PRECONDITION
            await context.abort_with_status(
                SimpleNamespace(code=code, details=status.message, trailing_metadata=trailers)
            )

        backend.script["GetMe"] = fail
        response = await rest.get("/v1/me")
        assert (response.status_code, response.headers["error-type"]) == (400, "INVALID_STATE")
        assert response.json() == {
            "code": 9,
            "message": "The user is not active.",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "INVALID_STATE",
                    "domain": "ameide.dev",
                    "metadata": {"state": "SUSPENDED"},
                },
                {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": "1", "servingData": ""},
            ],
        }
        refusal = await ask_grpc(edge, Ask(ME.rest, ME.rpc, edge.credentials))
        assert (refusal.code, refusal.reason, refusal.request_id) == (9, "INVALID_STATE", "1")

    @pytest.mark.parametrize(
        ("code", "row"),
        [
            (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
            (grpc.StatusCode.UNAVAILABLE, 503),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, 413),
            (grpc.StatusCode.UNKNOWN, 500),
        ],
    )
    async def test_that_grpc_made_gets_our_words(
        self, edge: Edge, backend: Backend, code: grpc.StatusCode, row: int
    ) -> None:
        async def fail(_request: Any, context: Any) -> None:
            await context.abort(code, "Unexpected <class 'ValueError'>: secret")

        backend.script["GetMe"] = fail
        ask = Ask(ME.rest, ME.rpc, edge.credentials)
        (await ask_rest(edge, ask)).is_row(REPLIES[row], http_status=row)
        (await ask_grpc(edge, ask)).is_row(REPLIES[row], http_status=200)
