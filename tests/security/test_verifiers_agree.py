"""Two programs verify every token; where they disagree, somebody gets in through one that trusts the other."""

import json
from collections.abc import Mapping
from typing import Final

import httpx
import pytest
from api_common.auth_provider import OidcAuthProvider, bearer_token
from api_common.errors import UnauthenticatedError
from api_common.key_set import FileKeySet

from tests.e2e.edge.conftest import Edge, Issuer
from tests.security.tokens import rows
from tools.topology import AUDIENCE, ISSUER

EXCEPTIONS: Final[Mapping[str, str]] = {
    "sub 'a\\u200b'": "The edge's Lua knows control characters of ASCII only, the service all of Unicode's.",
    "email None": "null and absent look the same in Envoy's metadata.",
}
"""Rows that the edge lets pass and the service refuses, reviewed, each with its reason. Never the other way round."""


@pytest.fixture(scope="module")
def verifier(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> OidcAuthProvider:
    path = tmp_path_factory.mktemp("verifier") / "jwks.json"
    path.write_text(json.dumps(issuer.key_set()))
    return OidcAuthProvider(issuer=ISSUER, audience=AUDIENCE, key_set=FileKeySet(path))


async def believes(verifier: OidcAuthProvider, authorization: str) -> bool:
    try:
        await verifier.authenticate(bearer_token((authorization,)))
    except UnauthenticatedError:
        return False
    return True


async def test_the_edge_and_the_service_believe_the_same_tokens(
    edge: Edge, issuer: Issuer, verifier: OidcAuthProvider
) -> None:
    table = list(rows(issuer))
    assert len({row.name for row in table}) == len(table) >= 40
    wrong, excused = [], set()
    async with edge.client() as client:
        for row in table:
            try:
                status = (await client.get("/v1/me", headers={"authorization": row.authorization})).status_code
            except httpx.TransportError:
                status = 0
            verdicts = (status, await believes(verifier, row.authorization))
            if verdicts == ((200, True) if row.good else (401, False)):
                continue
            if verdicts == (200, False) and row.name in EXCEPTIONS:
                excused.add(row.name)
            else:
                wrong.append(f"{row.name}: edge {verdicts[0]}, service {verdicts[1]}")
    assert not wrong, "\n".join(wrong)
    assert excused == set(EXCEPTIONS), "no longer needed"
