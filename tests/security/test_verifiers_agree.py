"""Two programs verify every token; where they disagree, somebody gets in through one that trusts the other."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
import yaml
from api_common.authn import CLAIM_MAPS, INTERNAL_ISSUER, ClaimMap, FileKeySet, OidcVerifier, bearer_token
from api_common.errors import UnauthenticatedError

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, rest_refusal
from tests.e2e.edge.plugin import Edge, Issuer, Layout, filter_named, running
from tests.security.test_rate_limits import statuses
from tests.security.tokens import Forge, rows
from tools.topology import AUDIENCE, ISSUER

EXCEPTIONS: Final[Mapping[str, str]] = {
    "sub 'a\\u200b'": "The edge's Lua knows control characters of ASCII only, the service all of Unicode's.",
    "roles {}": "An empty object and an empty list are one table in Lua; neither gives a role.",
    "email None": "null and absent look the same in Envoy's metadata.",
}
"""Rows that the edge lets pass and the service refuses, reviewed, each with its reason. Never the other way round."""


PRINCIPAL: Final = 60
TENANT: Final = 90


@dataclass(frozen=True)
class Verifiers:
    """Edge and service, told of the same issuer."""

    places: ClaimMap
    edge: Edge
    service: OidcVerifier

    async def believe(self, client: httpx.AsyncClient, authorization: str) -> tuple[int, bool]:
        """Returns the edge's answer and the service's."""
        try:
            status = (await client.get("/v1/me", headers={"authorization": authorization})).status_code
        except httpx.TransportError:
            status = 0
        try:
            await self.service.verify(bearer_token((authorization,)))
        except UnauthenticatedError:
            return status, False
        return status, True


@pytest.fixture(scope="module", params=CLAIM_MAPS)
async def verifiers(
    request: pytest.FixtureRequest,
    layout: Layout,
    published: None,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Verifiers]:
    """Both, for each kind of issuer; the edge with buckets that do not fill again while a test runs."""

    def change(manager: Any) -> None:
        for descriptor in filter_named(manager, "identity")["descriptors"]:
            size = PRINCIPAL if descriptor["entries"][-1]["key"] == "principal" else TENANT
            descriptor["token_bucket"] = {"max_tokens": size, "tokens_per_fill": size, "fill_interval": "600s"}

    path = tmp_path_factory.mktemp("verifier") / "jwks.json"
    path.write_text(json.dumps(issuer.key_set()))
    places = CLAIM_MAPS[request.param]
    service = OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=FileKeySet(path), claims=places)
    async with running(layout(request.param, 1, change, request.param)) as edge:
        yield Verifiers(places, edge, service)


async def test_believe_the_same_tokens(verifiers: Verifiers, issuer: Issuer, backend: Backend) -> None:
    table = list(rows(issuer, verifiers.places))
    assert len({row.name for row in table}) == len(table) >= 40
    wrong, excused = [], set()
    async with verifiers.edge.client() as client:
        for row in table:
            verdicts = await verifiers.believe(client, row.authorization)
            if verdicts == ((200, True) if row.good else (401, False)):
                continue
            if verdicts == (200, False) and row.name in EXCEPTIONS:
                excused.add(row.name)
            else:
                wrong.append(f"{row.name}: edge {verdicts[0]}, service {verdicts[1]}")
    assert not wrong, "\n".join(wrong)
    assert excused == set(EXCEPTIONS), "no longer needed"


async def test_take_a_token_as_long_as_the_headers_may_be(
    verifiers: Verifiers, issuer: Issuer, backend: Backend
) -> None:
    longest, longer = (Forge(issuer, verifiers.places).token(padding="x" * size) for size in (11_400, 12_400))
    assert 15_500 < len(longest) < 16_384 < len(longer)
    async with verifiers.edge.client() as client:
        assert await verifiers.believe(client, f"Bearer {longest}") == (200, True)
        refused = await client.get("/v1/me", headers={"authorization": f"Bearer {longer}"})
    rest_refusal(refused).is_row(REPLIES[431], http_status=431)


async def test_count_by_the_tenant_and_the_principal_of_any_issuer(
    verifiers: Verifiers, issuer: Issuer, backend: Backend
) -> None:
    def caller(sub: str, tenant: str) -> dict[str, str]:
        token = Forge(issuer, verifiers.places).token(sub=sub, tenant_id=tenant)
        return {"authorization": f"Bearer {token}"}

    assert await statuses(verifiers.edge, PRINCIPAL + 5, caller("ada", "one")) == {200: PRINCIPAL, 429: 5}
    assert await statuses(verifiers.edge, PRINCIPAL, caller("bob", "one")) == {
        200: TENANT - PRINCIPAL,
        429: 2 * PRINCIPAL - TENANT,
    }
    assert await statuses(verifiers.edge, 5, caller("ada", "two")) == {200: 5}


async def test_find_the_claims_of_our_own_tokens_where_we_put_them(
    verifiers: Verifiers, issuer: Issuer, backend: Backend
) -> None:
    own = {
        name: Forge(issuer, places).token(iss=INTERNAL_ISSUER, exp=issuer.now() + 60)
        for name, places in CLAIM_MAPS.items()
    }
    answers = {
        name: await statuses(verifiers.edge, 1, {"authorization": f"Bearer {token}"}) for name, token in own.items()
    }
    # Keycloak's have the tenant in the same place, and no role in ours.
    assert answers == {"generic": {200: 1}, "keycloak": {200: 1}, "auth0": {401: 1}}


async def test_believe_nobody_where_nobody_was_to_be_asked(layout: Layout, published: None, backend: Backend) -> None:
    # Two edges on one port would share its connections.
    laid = layout("gullible", 2)
    authentication = laid.folder / "authentication.yaml"
    document = yaml.safe_load(authentication.read_text())
    document["resources"][0]["typed_config"]["rules"] = []
    authentication.write_text(yaml.safe_dump(document))
    async with running(laid) as edge, edge.client() as client:
        paths = ("/v1/me", "/v1/users?pageSize=1", "/ameide.user.v1.UserService/GetMe", "/docs/..%2fv1/me", "/nothing")
        assert [(await client.get(path)).status_code for path in paths] == [401, 401, 401, 400, 401]
        assert (await client.options("/v1/me")).status_code == 204
        assert (await client.get("/docs?v=1")).status_code == 200
    assert backend.calls == []
