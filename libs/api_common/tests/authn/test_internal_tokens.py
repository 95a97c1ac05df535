"""Tokens that stand for API keys, and how they are told from those of users."""

import base64
import json
import time
from pathlib import Path

import jwt
import pytest
from api_common.authn import oidc
from api_common.authn.authenticator import Authenticator
from api_common.authn.internal_tokens import INTERNAL_ISSUER, InternalTokenSigner, public_jwk
from api_common.authn.key_sets import FileKeySet
from api_common.authn.oidc import OidcVerifier
from api_common.errors import UnauthenticatedError
from api_common.testing import AUDIENCE, ISSUER, Identity
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture
def signer(identity: Identity) -> InternalTokenSigner:
    return InternalTokenSigner(identity.signing_key_path.read_bytes(), audience=AUDIENCE)


@pytest.fixture
def authenticator(identity: Identity) -> Authenticator:
    users = OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=FileKeySet(identity.jwks_path))
    programs = OidcVerifier(
        issuer=INTERNAL_ISSUER,
        audience=AUDIENCE,
        key_set=FileKeySet(identity.internal_jwks_path),
        kind="service_account",
    )
    return Authenticator({ISSUER: users, INTERNAL_ISSUER: programs}, service="users", callers=())


async def test_each_issuer_is_believed_about_its_own_kind(
    authenticator: Authenticator, signer: InternalTokenSigner, identity: Identity
) -> None:
    user = await authenticator.authenticate(identity.caller("acme", "viewer").token, peer=None, method="")
    program = await authenticator.authenticate(
        signer.token(subject="p", tenant_id="acme", roles=["viewer"]), peer=None, method=""
    )
    assert (user.kind, program.kind) == ("user", "service_account")
    assert (program.subject, program.tenant_id, program.roles) == ("p", "acme", frozenset({"viewer"}))


def test_each_token_names_its_key_and_has_an_id_of_its_own(signer: InternalTokenSigner, identity: Identity) -> None:
    tokens = [signer.token(subject="p", tenant_id="acme", roles=[]) for _ in range(2)]
    key_id = public_jwk(identity.signing_key_path.read_bytes())["kid"]
    assert [jwt.get_unverified_header(token)["kid"] for token in tokens] == [key_id] * 2
    ids = {jwt.decode(token, options={"verify_signature": False})["jti"] for token in tokens}
    assert len(ids) == 2


async def test_an_issuer_cannot_speak_as_the_other(authenticator: Authenticator, identity: Identity) -> None:
    for forged in (
        identity.sign(identity.claims("acme", "admin") | {"iss": INTERNAL_ISSUER}),
        jwt.encode(
            identity.claims("acme", "admin"),
            identity.signing_key_path.read_bytes(),
            "ES256",
            headers={"kid": public_jwk(identity.signing_key_path.read_bytes())["kid"]},
        ),
    ):
        with pytest.raises(UnauthenticatedError):
            await authenticator.authenticate(forged, peer=None, method="")


async def test_what_was_believed_is_not_read_again(
    authenticator: Authenticator, signer: InternalTokenSigner, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = identity.caller("acme", "viewer").token, signer.token(subject="p", tenant_id="acme", roles=["viewer"])
    before = [await authenticator.authenticate(token, peer=None, method="") for token in tokens]
    monkeypatch.setattr(oidc, "_object", lambda _: pytest.fail("read again"))
    for token, principal in zip(tokens, before, strict=True):
        assert await authenticator.authenticate(token, peer=None, method="") is principal


async def test_what_was_believed_ends_with_its_key(identity: Identity, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(identity.key_set))
    keys = FileKeySet(path)
    verifier = OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=keys)
    authenticator = Authenticator({ISSUER: verifier}, service="users", callers=())
    token = identity.caller("acme", "viewer").token
    await authenticator.authenticate(token, peer=None, method="")
    path.write_text(json.dumps({"keys": [{**identity.key_set["keys"][0], "kid": "another"}]}))
    await keys.refresh()
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(token, peer=None, method="")


@pytest.mark.parametrize(
    "claims", [{}, *({"iss": iss} for iss in ("https://other.example/", ["x"], {"a": 1}, 7, "", None))], ids=str
)
async def test_an_unknown_issuer_is_refused(authenticator: Authenticator, claims: dict[str, object]) -> None:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(f"e30.{payload}.x", peer=None, method="")


@pytest.mark.parametrize("token", ["", ".", "a.b.c", "a.e30.c", "a.W10.c", f"a.{'x' * 9000}.c", "a.é.c"])
async def test_what_is_no_token_is_refused(authenticator: Authenticator, token: str) -> None:
    with pytest.raises(UnauthenticatedError):
        await authenticator.authenticate(token, peer=None, method="")


def test_a_token_lives_for_a_minute(signer: InternalTokenSigner) -> None:
    claims = jwt.decode(signer.token(subject="p", tenant_id="acme", roles=[]), options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60
    assert claims["iat"] == pytest.approx(time.time(), abs=5)


def test_only_a_p256_key_signs() -> None:
    other = ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(ValueError, match="P-256"):
        InternalTokenSigner(other, audience=AUDIENCE)


def test_the_published_key_holds_nothing_private(identity: Identity) -> None:
    published = json.loads(identity.internal_jwks_path.read_text())["keys"][0]
    assert set(published) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
