"""Every 401 says how to authenticate, whether a credential was refused, and where to read on (RFC 6750, RFC 9728)."""

import asyncio
import re

import httpx
import pytest
from api_common.errors import UnauthenticatedError

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import CALLERS, USERS, Ask
from tests.e2e.edge.plugin import Edge, Issuer
from tests.e2e.edge.test_error_matrix import failing

DOCUMENT = "/.well-known/oauth-protected-resource"


async def test_is_in_every_401(edge: Edge, issuer: Issuer, backend: Backend) -> None:
    backend.script["GetMe"] = failing(UnauthenticatedError())
    tokens = {
        "by the service": edge.token,
        "by jwt_authn": "a.b.c",
        "by claims.lua": issuer.token(tenant_id="*"),
        "by rbac": f"{edge.token},x",
    }
    async with edge.client() as client:
        for name, token in tokens.items():
            answer = await client.get("/v1/me", headers={"authorization": f"Bearer {token}"})
            expected = f'Bearer error="invalid_token", resource_metadata="{edge.url}{DOCUMENT}"'
            assert (answer.status_code, answer.headers.get_list("www-authenticate")) == (401, [expected]), name
        answer = await client.get("/v1/me")
        expected = f'Bearer resource_metadata="{edge.url}{DOCUMENT}"'
        assert (answer.status_code, answer.headers.get_list("www-authenticate")) == (401, [expected])


@pytest.mark.parametrize("language", CALLERS)
async def test_is_in_every_language(edge: Edge, language: str) -> None:
    for headers, error in (({}, ""), ({"authorization": "Bearer a.b.c"}, 'error="invalid_token", ')):
        refusal = await CALLERS[language](edge, Ask("/v1/me", f"{USERS}/GetMe", headers))
        expected = f'Bearer {error}resource_metadata="{edge.url}{DOCUMENT}"'
        assert (refusal.reason, refusal.headers["www-authenticate"]) == ("UNAUTHENTICATED", expected)


async def test_names_a_document_that_names_the_issuer(edge: Edge) -> None:
    """RFC 9728, section 3.3: a client compares `resource` with what it has called."""
    for url, verify in ((edge.url, False), (edge.secure_url, edge.trust)):
        async with httpx.AsyncClient(base_url=url, verify=verify) as client:
            (said,) = re.findall('resource_metadata="(.*)"', (await client.get("/v1/me")).headers["www-authenticate"])
            answer = await client.get(said)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {
            "resource": url,
            "authorization_servers": ["https://dev.ameide.local/"],
            "bearer_methods_supported": ["header"],
            "resource_documentation": f"{url}/docs",
        }


@pytest.mark.parametrize("path", ["/mcp", "/mcp/readonly", "/mcp/serviceAccounts"])
async def test_of_an_endpoint_for_agents_names_its_own_document(edge: Edge, path: str) -> None:
    async with edge.client() as client:
        for credential, error in ((None, ""), ("Bearer a.b.c", 'error="invalid_token", ')):
            headers = {"authorization": credential} if credential else {}
            refused = await client.post(path, json={}, headers=headers)
            expected = f'Bearer {error}resource_metadata="{edge.url}{DOCUMENT}{path}"'
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, expected)
        document = (await client.get(f"{DOCUMENT}{path}")).json()
        assert (document["resource"], len(document["authorization_servers"])) == (f"{edge.url}{path}", 1)
        for odd in ('/mcp/"x', "/mcp/users/x", "/mcp?x"):
            said = (await client.post(odd, json={})).headers["www-authenticate"]
            assert said == f'Bearer resource_metadata="{edge.url}{DOCUMENT}{"/mcp" if odd == "/mcp?x" else ""}"'
        assert (await client.get(f"{DOCUMENT}/mcp/nothing")).status_code == 401


@pytest.mark.parametrize("host", ['a"b', "a b", "a\\b", "a/b", "a@b\x7f"])
async def test_holds_no_host_that_is_none(edge: Edge, host: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.port)
    writer.write(f"GET /v1/me HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    assert answer.startswith("HTTP/1.1 4")
    assert host not in answer.partition("\r\n\r\n")[0]


@pytest.mark.parametrize("path", ["/v1/me", "/v1/nothing", "/healthz"])
async def test_is_in_nothing_else(edge: Edge, backend: Backend, path: str) -> None:
    async with edge.client(headers=edge.credentials) as client:
        assert "www-authenticate" not in (await client.get(path)).headers
