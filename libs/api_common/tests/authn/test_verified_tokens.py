"""Verified tokens are remembered, for as long as they are good."""

import json
import time
from pathlib import Path

import jwt
import pytest
from api_common.authn import oidc as auth_provider
from api_common.authn.key_sets import FileKeySet
from api_common.authn.oidc import CLOCK_SKEW_SECONDS, OidcAuthProvider
from api_common.errors import UnauthenticatedError
from api_common.testing import AUDIENCE, ISSUER, Identity

from libs.api_common.tests.authn.test_oidc import HOUR, claims, header, provider, signed


class TestMemory:
    async def test_does_not_outlive_the_token(self, identity: Identity) -> None:
        now = time.time()
        verifier = provider(identity, now=lambda: now)
        token = signed(identity, header(), claims(identity, exp=int(now) + HOUR))
        assert (await verifier.authenticate(token)).subject == "ada"
        now += HOUR + CLOCK_SKEW_SECONDS + 1
        with pytest.raises(UnauthenticatedError):
            await verifier.authenticate(token)

    async def test_saves_the_verification(self, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
        verifier = provider(identity)
        token = signed(identity, header(), claims(identity))
        first = await verifier.authenticate(token)
        monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))
        assert await verifier.authenticate(token) is first

    async def test_is_of_tokens_that_were_believed_only(self, identity: Identity) -> None:
        verifier = provider(identity)
        good = signed(identity, header(), claims(identity))
        await verifier.authenticate(good)
        for token in (good[:-2] + "AA", good + "x"):
            for _ in range(2):
                with pytest.raises(UnauthenticatedError):
                    await verifier.authenticate(token)

    async def test_is_limited(self, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(auth_provider, "_CACHE_SIZE", 3)
        verifier = provider(identity)
        for number in range(5):
            await verifier.authenticate(signed(identity, header(), claims(identity, sub=f"user-{number}")))
        assert len(verifier._verified) == 3

    async def test_is_lost_when_the_issuers_keys_change(self, identity: Identity, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps(identity.key_set))
        keys = FileKeySet(path)
        verifier = OidcAuthProvider(issuer=ISSUER, audience=AUDIENCE, key_set=keys)
        token = signed(identity, header(), claims(identity))
        await verifier.authenticate(token)
        path.write_text(json.dumps({"keys": [{**identity.key_set["keys"][0], "kid": "another"}]}))
        await keys.refresh()
        with pytest.raises(UnauthenticatedError):
            await verifier.authenticate(token)
