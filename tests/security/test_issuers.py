"""Tokens as Keycloak and Auth0 make them: edge and services read the same of each.

The files of Keycloak are from `make check-keycloak`; those of Auth0 follow its documentation, for both of its token
profiles. Issuer and key are the test's.
"""

import json
import time
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from api_common.authn import CLAIM_MAPS, FileKeySet, OidcVerifier
from api_common.errors import UnauthenticatedError
from api_common.testing import AUDIENCE, ISSUER, Identity

from tests.lua.filters import Filter

TOKENS: Final = sorted((Path(__file__).parent / "issuers").glob("*.json"))


@pytest.mark.parametrize("path", TOKENS, ids=lambda path: path.stem)
async def test_edge_and_services_read_the_same_of_a_token(path: Path, identity: Identity) -> None:
    golden = json.loads(path.read_text())
    claims, payload = path.name.partition("-")[0], shifted(golden["payload"])
    token = jwt.encode(payload, identity.private_key, headers=golden["header"], algorithm="RS256")
    assert await told_by_the_service(token, claims, identity) == golden["bearer"]
    expected = golden["bearer"] and {"tenant": golden["bearer"]["tenant"], "principal": golden["bearer"]["subject"]}
    assert told_by_the_edge(token, claims, golden["header"], payload) == expected


def shifted(payload: dict[str, Any]) -> dict[str, Any]:
    """Moves the token's times, so that it was issued just now."""
    by = int(time.time()) - payload["iat"]
    return payload | {name: payload[name] + by for name in ("iat", "exp", "nbf", "auth_time") if name in payload}


async def told_by_the_service(token: str, claims: str, identity: Identity) -> dict[str, Any] | None:
    key_set = FileKeySet(identity.jwks_path)
    verifier = OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=key_set, claims=CLAIM_MAPS[claims])
    try:
        found = await verifier.verify(token)
    except UnauthenticatedError:
        return None
    return {"subject": found.subject, "tenant": found.tenant_id, "roles": sorted(found.roles)}


def told_by_the_edge(token: str, claims: str, header: Any, payload: Any) -> dict[str, Any] | None:
    """Returns whom the rate limits count, after `jwt_authn` has verified the signature."""
    verified = {"envoy.filters.http.jwt_authn": {"claims": payload, "header": header}}
    headers = {":method": "GET", ":path": "/v1/me", "authorization": f"Bearer {token}"}
    found = Filter("admit", claims=claims).request(headers, metadata=verified).metadata["ameide.identity"]
    return found and dict(found.items())
