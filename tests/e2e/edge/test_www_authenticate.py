"""Every 401 of REST says how to authenticate, and whether a credential was refused (RFC 6750, section 3)."""

import pytest
from api_common.errors import UnauthenticatedError

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.plugin import Edge, Issuer
from tests.e2e.edge.test_error_matrix import failing

REFUSED = 'Bearer error="invalid_token"'


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
            assert (answer.status_code, answer.headers.get_list("www-authenticate")) == (401, [REFUSED]), name
        answer = await client.get("/v1/me")
        assert (answer.status_code, answer.headers.get_list("www-authenticate")) == (401, ["Bearer"])


@pytest.mark.parametrize("path", ["/v1/me", "/v1/nothing", "/healthz"])
async def test_is_in_nothing_else(edge: Edge, backend: Backend, path: str) -> None:
    async with edge.client(headers=edge.credentials) as client:
        assert "www-authenticate" not in (await client.get(path)).headers
