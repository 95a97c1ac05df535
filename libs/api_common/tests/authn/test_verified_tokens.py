"""Verified tokens are remembered, for as long as they are good."""

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from api_common.authn import authenticator
from api_common.authn.authenticator import Authenticator
from api_common.authn.key_sets import FileKeySet
from api_common.authn.oidc import OidcVerifier
from api_common.errors import CredentialFault, UnauthenticatedError
from api_common.testing import AUDIENCE, ISSUER, Identity

from libs.api_common.tests.authn.test_oidc import GONE, HOUR, claims, header, signed, verifier


def authenticator_of(one: OidcVerifier, **options: Any) -> Authenticator:
    return Authenticator({ISSUER: one}, service="users", callers=(), **options)


class TestMessage:
    @pytest.mark.parametrize(
        ("header_changes", "changes", "said"),
        [
            ({}, {"iat": 1, "exp": 2}, CredentialFault.EXPIRED),
            ({"kid": "unknown"}, {}, CredentialFault.KEY),
            ({}, {"iss": "https://elsewhere.example/"}, CredentialFault.ISSUER),
            ({}, {"iss": GONE}, CredentialFault.ISSUER),
            ({"kid": 1}, {}, CredentialFault.MALFORMED),
            # Nothing of what is wrong with a claim.
            ({}, {"aud": "elsewhere"}, UnauthenticatedError.sentence),
            ({}, {"tenant_id": GONE}, UnauthenticatedError.sentence),
        ],
    )
    async def test_says_what_the_bearer_can_find_out_alone(
        self, identity: Identity, header_changes: dict[str, Any], changes: dict[str, Any], said: str
    ) -> None:
        token = signed(identity, header(**header_changes), claims(identity, **changes))
        assert await self.said_of(identity, token) == said

    async def test_says_nothing_of_a_wrong_signature(self, identity: Identity) -> None:
        start, payload, signature = signed(identity, header(), claims(identity, iat=1, exp=2)).split(".")
        assert await self.said_of(identity, f"{start}.{payload}.{signature[::-1]}") == UnauthenticatedError.sentence
        for token in ("x", "a.b.c", f"{start}.{payload}"):
            assert await self.said_of(identity, token) == CredentialFault.MALFORMED

    @staticmethod
    async def said_of(identity: Identity, token: str) -> str:
        with pytest.raises(UnauthenticatedError) as caught:
            await authenticator_of(verifier(identity)).authenticate(token, peer=None, method="")
        return caught.value.message


class TestMemory:
    async def test_does_not_outlive_the_token(self, identity: Identity) -> None:
        now = time.time()
        callers = authenticator_of(verifier(identity), now=lambda: now)
        token = signed(identity, header(), claims(identity, exp=int(now) + HOUR))
        assert (await callers.authenticate(token, peer=None, method="")).subject == "ada"
        now += HOUR + OidcVerifier.CLOCK_SKEW_SECONDS + 1
        with pytest.raises(UnauthenticatedError) as caught:
            await callers.authenticate(token, peer=None, method="")
        assert caught.value.message == CredentialFault.EXPIRED

    async def test_saves_the_verification(self, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
        callers = authenticator_of(verifier(identity))
        token = signed(identity, header(), claims(identity))
        first = await callers.authenticate(token, peer=None, method="")
        monkeypatch.setattr(jwt, "decode", lambda *_, **__: pytest.fail("verified again"))
        assert await callers.authenticate(token, peer=None, method="") is first

    async def test_is_of_tokens_that_were_believed_only(self, identity: Identity) -> None:
        callers = authenticator_of(verifier(identity))
        good = signed(identity, header(), claims(identity))
        await callers.authenticate(good, peer=None, method="")
        for token in (good[:-2] + "AA", good + "x"):
            for _ in range(2):
                with pytest.raises(UnauthenticatedError):
                    await callers.authenticate(token, peer=None, method="")

    async def test_is_limited(self, identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(authenticator, "_CACHE_SIZE", 3)
        callers = authenticator_of(verifier(identity))
        for number in range(5):
            await callers.authenticate(
                signed(identity, header(), claims(identity, sub=f"user-{number}")), peer=None, method=""
            )
        assert len(callers._users) == 3

    async def test_is_lost_when_the_issuers_keys_change(self, identity: Identity, tmp_path: Path) -> None:
        path = tmp_path / "jwks.json"
        path.write_text(json.dumps(identity.key_set))
        keys = FileKeySet(path)
        callers = authenticator_of(OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=keys))
        token = signed(identity, header(), claims(identity))
        await callers.authenticate(token, peer=None, method="")
        path.write_text(json.dumps({"keys": [{**identity.key_set["keys"][0], "kid": "another"}]}))
        await keys.refresh()
        with pytest.raises(UnauthenticatedError):
            await callers.authenticate(token, peer=None, method="")
