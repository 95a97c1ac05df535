"""Which tokens are believed. The edge believes a few more; a token that only one of the two refuses is refused."""

import asyncio
import base64
import hashlib
import hmac
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from api_common.authn.authenticator import bearer_token
from api_common.authn.key_sets import FileKeySet
from api_common.authn.oidc import CLAIM_MAPS, OidcVerifier
from api_common.errors import CredentialFault, UnauthenticatedError
from api_common.testing import AUDIENCE, ISSUER, KEY_ID, Identity
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from jwt.algorithms import RSAAlgorithm

Json = dict[str, Any]
GONE: Final = object()
"""Stands for a claim that is left out."""


def verifier(*identities: Identity, **options: Any) -> OidcVerifier:
    """Returns what believes the tokens of all ``identities``."""
    keys = [key for identity in identities for key in identity.key_set["keys"]]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"keys": keys}, file)
        file.flush()
        key_set = FileKeySet(Path(file.name))
    return OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=key_set, **options)


async def refuse(token: str, *identities: Identity) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        await verifier(*identities).verify(token)
    assert caught.value.message in ("The credential is not valid.", *CredentialFault)


def encoded(part: Json | bytes | str) -> str:
    raw = json.dumps(part).encode() if isinstance(part, dict) else part.encode() if isinstance(part, str) else part
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(identity: Identity, header: Json | str, payload: Json | str | bytes) -> str:
    """Signs any header and payload with RS256, whatever they say."""
    start = f"{encoded(header)}.{encoded(payload)}"
    signature = identity.private_key.sign(start.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{start}.{encoded(signature)}"


def claims(identity: Identity, **changes: Any) -> Json:
    """Returns good claims with ``changes``."""
    made = identity.claims("acme", "admin") | changes
    return {name: value for name, value in made.items() if value is not GONE}


def header(**changes: Any) -> Json:
    made = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID} | changes
    return {name: value for name, value in made.items() if value is not GONE}


def public_pem(identity: Identity) -> bytes:
    return identity.private_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class TestGoodTokens:
    async def test_tell_who_calls(self, identity: Identity) -> None:
        made = claims(identity, email="ada@example.com")
        found = await verifier(identity).verify(signed(identity, header(), made))
        assert (found.subject, found.tenant_id, found.roles) == ("ada", "acme", frozenset({"admin"}))
        assert (found.email, found.expires_at) == ("ada@example.com", made["exp"])

    @pytest.mark.parametrize(
        "changes",
        [
            {"aud": [AUDIENCE]},
            {"aud": ["account", AUDIENCE]},
            {"email": GONE},
            {"roles": []},
            {"roles": GONE},
            {"roles": None},
            {"exp": time.time() + 3600.5, "iat": time.time() - 0.5, "nbf": time.time() - 0.5},
            {"padding": "x" * 11_000},
            {"nbf": int(time.time()) - 10},
            {"scope": "openid", "nested": {"a": [1, {"b": 2}]}},
        ],
    )
    async def test_may_look_different(self, identity: Identity, changes: Json) -> None:
        """An issuer may list several audiences (RFC 7519, section 4.1.3); Keycloak does."""
        assert (await verifier(identity).verify(signed(identity, header(), claims(identity, **changes)))).subject


class TestSignatures:
    @pytest.mark.parametrize(
        "algorithm", ["none", "None", "NONE", "nOnE", "", "RS512", "PS256", "ES256", None, 1, ["RS256"]]
    )
    async def test_of_an_algorithm_that_is_not_the_keys_are_refused(
        self, identity: Identity, algorithm: object
    ) -> None:
        await refuse(signed(identity, header(alg=algorithm), claims(identity)), identity)
        unsigned = f"{encoded(header(alg=algorithm))}.{encoded(claims(identity))}."
        await refuse(unsigned, identity)

    async def test_with_a_public_key_as_secret_are_refused(self, identity: Identity) -> None:
        document = json.dumps(identity.key_set).encode()
        for secret in (public_pem(identity), document, identity.jwks_path.read_bytes(), b"", KEY_ID.encode()):
            for algorithm, digest in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512)):
                start = f"{encoded(header(alg=algorithm))}.{encoded(claims(identity))}"
                signature = hmac.new(secret, start.encode(), digest).digest()
                await refuse(f"{start}.{encoded(signature)}", identity)

    @pytest.mark.parametrize("algorithm", ["RS512", "PS256", "RS384"])
    async def test_of_another_algorithm_with_our_key_are_refused(self, identity: Identity, algorithm: str) -> None:
        token = jwt.encode(claims(identity), identity.private_key, algorithm, headers={"kid": KEY_ID})
        await refuse(token, identity)

    async def test_of_somebody_else_are_refused(self, identity: Identity) -> None:
        foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        await refuse(jwt.encode(claims(identity), foreign, "RS256", headers={"kid": KEY_ID}), identity)

    async def test_that_were_tampered_with_are_refused(self, identity: Identity) -> None:
        start, payload, signature = signed(identity, header(), claims(identity)).split(".")
        forged = encoded(claims(identity, tenant_id="other"))
        last = signature[:-1] + ("A" if signature[-1] != "A" else "B")
        # The last character carries spare bits, so this one decodes to the same bytes.
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        spare = signature[:-1] + alphabet[alphabet.index(signature[-1]) ^ 1]
        for token in (
            f"{start}.{forged}.{signature}",
            f"{start}.{payload}.{last}",
            f"{start}.{payload}.{spare}",
            f"{start}.{payload}.{signature[:-4]}",
            f"{start}.{payload}.{signature}=",
            f"{start}.{payload}.{signature}==",
            f"{start}.{payload}.",
        ):
            await refuse(token, identity)


class TestKeys:
    @pytest.mark.parametrize(
        "key_id",
        [
            "unknown",
            "",
            "../../../dev/null",
            "k1' OR '1'='1",
            f"{KEY_ID}\0",
            KEY_ID.upper(),
            "k" * 5000,
            None,
            1,
            [KEY_ID],
            {},
            True,
        ],
        ids=lambda key_id: str(key_id)[:20],
    )
    async def test_that_are_unknown_are_not_guessed(self, identity: Identity, key_id: object) -> None:
        await refuse(signed(identity, header(kid=key_id), claims(identity)), identity)

    async def test_need_no_name_if_there_is_only_one(self, identity: Identity) -> None:
        token = signed(identity, header(kid=GONE), claims(identity))
        assert (await verifier(identity).verify(token)).subject == "ada"

    async def test_are_chosen_by_name_among_several(
        self, identity: Identity, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        other = Identity(tmp_path_factory.mktemp("other"))
        other.key_set["keys"][0]["kid"] = "second"
        both = (identity, other)
        assert (await verifier(*both).verify(signed(other, header(kid="second"), claims(other)))).subject
        assert (await verifier(*both).verify(signed(identity, header(), claims(identity)))).subject
        await refuse(signed(other, header(), claims(other)), *both)
        await refuse(signed(identity, header(kid="second"), claims(identity)), *both)
        await refuse(signed(identity, header(kid=GONE), claims(identity)), *both)

    async def test_that_are_secrets_are_not_used(
        self, identity: Identity, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """A key set is public, so any reader could sign with them."""
        published = Identity(tmp_path_factory.mktemp("published"))
        published.key_set["keys"] = [{"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "oct", "alg": "HS256"}]
        secret = base64.b64decode("c2VjcmV0" * 8)
        await refuse(jwt.encode(claims(identity), secret, "HS256", headers={"kid": "oct"}), identity, published)

    async def test_are_never_taken_from_the_token(self, identity: Identity) -> None:
        connections = 0

        async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            writer.close()

        foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        own = {**RSAAlgorithm.to_jwk(foreign.public_key(), as_dict=True), "kid": KEY_ID}
        async with await asyncio.start_server(count, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
            for named in ({"jku": url}, {"x5u": url}, {"jwk": own}, {"x5c": ["MIIB"]}, {"jku": url, "jwk": own}):
                token = jwt.encode(claims(identity), foreign, "RS256", headers={"kid": KEY_ID, **named})
                await refuse(token, identity)
        assert connections == 0

    async def test_cannot_be_told_to_mean_something_else(self, identity: Identity) -> None:
        """RFC 7515, section 4.1.11: who does not understand a critical header must refuse."""
        critical: list[Json] = [
            {"crit": ["exp2"], "exp2": 1},
            {"crit": ["b64"], "b64": False},
            {"crit": []},
            {"crit": "x"},
        ]
        for extra in critical:
            await refuse(signed(identity, header(**extra), claims(identity)), identity)


NOW: Final = int(time.time())
HOUR: Final = 3600
DAY: Final = OidcVerifier.MAX_LIFETIME_SECONDS
ODD: Final[dict[str, list[object]]] = {
    "exp": [
        GONE,
        0,
        None,
        "soon",
        str(NOW + HOUR),
        -1,
        NOW - HOUR,
        True,
        [NOW],
        NOW + DAY + HOUR,
        10**400,
    ],
    "iat": [GONE, None, "now", NOW + HOUR, True, 0.5, NOW - DAY],
    "nbf": [NOW + HOUR, "never", True],
    "aud": [
        GONE,
        None,
        "",
        "other",
        f"{AUDIENCE}/",
        AUDIENCE.upper(),
        f" {AUDIENCE}",
        [],
        ["other"],
        [1],
        1,
        {AUDIENCE: 1},
    ],
    "iss": [
        GONE,
        None,
        "",
        ISSUER.rstrip("/"),
        f"{ISSUER}x",
        ISSUER.upper(),
        ISSUER.replace("https", "http"),
        [ISSUER],
        1,
    ],
    "sub": [GONE, None, "", 1, ["ada"], "a" * 256, "a\nb", "a\0"],
    "tenant_id": [GONE, None, "", 1, ["acme"], "a'; DROP TABLE users; --", "*", "a" * 64, "acme\n", " acme", "ácme"],
    "roles": ["admin", {"admin": True}, [1], [["admin"]]],
    "email": [1, None, ["a@example.com"]],
}
"""Values that a claim must not have."""


class TestClaims:
    @pytest.mark.parametrize(("name", "values"), ODD.items())
    async def test_that_are_odd_are_refused(self, identity: Identity, name: str, values: list[object]) -> None:
        for value in values:
            await refuse(signed(identity, header(), claims(identity, **{name: value})), identity)

    @pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "Infinity", "1e18", "9" * 5000])
    @pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
    async def test_that_are_no_usable_number_are_refused(self, identity: Identity, name: str, number: str) -> None:
        text = json.dumps(claims(identity, **{name: 0})).replace(f'"{name}": 0', f'"{name}": {number}')
        await refuse(signed(identity, header(), text), identity)

    @pytest.mark.parametrize("name", ["sub", "tenant_id", "exp", "iss", "aud", "roles"])
    async def test_that_stand_twice_are_refused(self, identity: Identity, name: str) -> None:
        good = json.dumps(claims(identity))
        other = {"tenant_id": '"other"', "sub": '"root"', "exp": "99999999999"}.get(name, '"x"')
        for text in (f'{{"{name}": {other}, {good[1:]}', f'{good[:-1]}, "{name}": {other}}}'):
            await refuse(signed(identity, header(), text), identity)

    @pytest.mark.parametrize("name", ["alg", "kid", "typ"])
    async def test_of_the_header_that_stand_twice_are_refused(self, identity: Identity, name: str) -> None:
        good = json.dumps(header())
        for value in ('"none"', '"RS256"', f'"{KEY_ID}"'):
            await refuse(signed(identity, f'{{"{name}": {value}, {good[1:]}', claims(identity)), identity)


class TestShapes:
    @pytest.mark.parametrize(
        "payload", ["[]", "null", "1", '"text"', "", "{", "{}", "\ufeff{}", '{"a":' * 5000 + "1" + "}" * 5000]
    )
    async def test_of_payloads_that_are_no_object_are_refused(self, identity: Identity, payload: str) -> None:
        await refuse(signed(identity, header(), payload), identity)

    async def test_of_payloads_that_are_no_text_are_refused(self, identity: Identity) -> None:
        await refuse(signed(identity, header(), b'{"sub": "\xff\xfe"}'), identity)
        good = json.dumps(claims(identity))
        await refuse(signed(identity, header(), good.encode("utf-16")), identity)
        await refuse(signed(identity, header(), b"\xef\xbb\xbf" + good.encode()), identity)

    async def test_of_other_things_are_refused(self, identity: Identity) -> None:
        good = signed(identity, header(), claims(identity))
        start, payload, signature = good.split(".")
        for token in (
            "", ".", "..", "...", "a.b.c", "ä.ö.ü", f"{start}.{payload}", f"{good}.x", f"{good}.", f" {good}",
            f"{good}\n", f"{good} ", good.replace(".", "..", 1), f"{start}=.{payload}.{signature}", "x" * 100_000,
            f"{start}.{payload}\n.{signature}", good + "A" * 9000,
        ):  # fmt: skip
            await refuse(token, identity)

    async def test_that_are_too_long_are_refused(self, identity: Identity) -> None:
        await refuse(signed(identity, header(), claims(identity, padding="x" * 12_400)), identity)


class TestBearerToken:
    def test_is_what_follows_the_scheme(self) -> None:
        assert bearer_token(("Bearer a.b.c",)) == "a.b.c"

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ((), "A bearer token is required."),
            (("Bearer a", "Bearer b"), CredentialFault.SEVERAL),
            *(((value,), CredentialFault.SCHEME) for value in ("", "Bearer", "bearer a", "Basic a", " Bearer a")),
        ],
    )
    def test_is_asked_for_otherwise(self, values: tuple[str, ...], said: str) -> None:
        with pytest.raises(UnauthenticatedError) as caught:
            bearer_token(values)
        assert caught.value.message == said


def test_a_claim_map_is_no_way_around_the_tenant() -> None:
    """Every issuer we know of says which tenant it means; none may be left out."""
    assert len(CLAIM_MAPS) == 3
    assert all(one.tenant and one.roles for one in CLAIM_MAPS.values())
