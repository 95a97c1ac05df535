"""Discovery, keys and tokens of a certified OpenID provider, not of one that we wrote."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx
import jwt
import pytest
from api_common.authn import CLAIM_MAPS, DiscoveredKeySet, OidcVerifier
from api_common.errors import UnauthenticatedError

from tests import node_packages
from tools.topology import AUDIENCE

HERE: Final = Path(__file__).parent


@pytest.fixture(scope="session")
def server_folder() -> Path:
    """The server with its dependencies."""
    folder = node_packages.installed(HERE)
    shutil.copy(HERE / "server.mjs", folder)
    return folder


@pytest.fixture(scope="session")
async def issuer(server_folder: Path) -> AsyncIterator[str]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "node", "server.mjs", cwd=server_folder, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdout
    url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    if not url:
        pytest.fail((await process.communicate())[1].decode())
    yield url
    # Ends its input, which ends it.
    await asyncio.wait_for(process.communicate(b""), 10)


async def token_of(issuer: str, client: str) -> str:
    async with httpx.AsyncClient(verify=False) as http:
        configuration = (await http.get(f"{issuer}/.well-known/openid-configuration")).json()
        form = {"grant_type": "client_credentials"}
        answer = await http.post(configuration["token_endpoint"], data=form, auth=(client, "secret"))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


@pytest.mark.parametrize("kind", CLAIM_MAPS)
class TestToken:
    async def test_tells_who_calls(self, issuer: str, kind: str) -> None:
        token = await token_of(issuer, kind)
        assert jwt.get_unverified_header(token) == {"alg": "RS256", "typ": "at+jwt", "kid": "real"}
        key_set = DiscoveredKeySet(issuer)
        provider = OidcVerifier(issuer=issuer, audience=AUDIENCE, key_set=key_set, claims=CLAIM_MAPS[kind])
        principal = await provider.verify(token)
        await key_set.close()
        assert (principal.subject, principal.tenant_id, principal.roles) == (kind, "acme", frozenset({"admin"}))

    async def test_is_no_use_to_another_audience(self, issuer: str, kind: str) -> None:
        key_set = DiscoveredKeySet(issuer)
        provider = OidcVerifier(issuer=issuer, audience="other", key_set=key_set, claims=CLAIM_MAPS[kind])
        with pytest.raises(UnauthenticatedError):
            await provider.verify(await token_of(issuer, kind))
        await key_set.close()


async def test_claims_of_one_kind_are_not_those_of_another(issuer: str) -> None:
    key_set = DiscoveredKeySet(issuer)
    provider = OidcVerifier(issuer=issuer, audience=AUDIENCE, key_set=key_set, claims=CLAIM_MAPS["generic"])
    # Keycloak has the tenant where we have it, and the roles elsewhere: they do not count.
    assert (await provider.verify(await token_of(issuer, "keycloak"))).roles == frozenset()
    with pytest.raises(UnauthenticatedError):
        await provider.verify(await token_of(issuer, "auth0"))
    await key_set.close()
