"""Tokens of every class that somebody has forged, or that an issuer could make by mistake."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from api_common.authn import CLAIM_MAPS, ClaimMap
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.e2e.edge.plugin import Issuer
from tools.topology import AUDIENCE, ISSUER

GONE: Final = object()
"""Stands for a claim that is left out."""
MAX_LIFETIME_SECONDS: Final = 24 * 3600


@dataclass(frozen=True)
class Row:
    """One value of the `authorization` header."""

    name: str
    authorization: str
    good: bool = False


def encoded(part: object) -> str:
    raw = part if isinstance(part, bytes) else part.encode() if isinstance(part, str) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def rows(issuer: Issuer, places: ClaimMap) -> Iterator[Row]:
    """Yields good tokens and bad ones, in the classes of AU-3 to AU-11, with tenant and roles in ``places``."""
    forge = Forge(issuer, places)
    for name, token in forge.good():
        yield Row(name, f"Bearer {token}", good=True)
    for tokens in (
        forge.signatures,
        forge.headers,
        forge.claims,
        forge.numbers,
        forge.twice,
        forge.shapes,
        forge.places,
    ):
        yield from (Row(name, f"Bearer {token}") for name, token in tokens())
    token = forge.token()
    for spelling in (
        "bearer {}",
        "BEARER {}",
        "Bearer  {}",
        "Bearer\t{}",
        "{}",
        "Basic {}",
        "Bearer {},Bearer x",
        "Bearer",
    ):
        yield Row(f"spelled {spelling!r}", spelling.format(token))


def placed(claims: dict[str, object], places: ClaimMap) -> dict[str, object]:
    """Returns ``claims``, which have `tenant_id` and `roles`, as an issuer says them that puts these in ``places``."""
    result = {name: value for name, value in claims.items() if name not in ("tenant_id", "roles")}
    for name, path in (("tenant_id", places.tenant), ("roles", places.roles)):
        if name in claims:
            value = claims[name]
            for step in reversed(path):
                value = {step: value}
            assert isinstance(value, dict)
            result |= value
    return result


class Forge:
    """Signs anything with the issuer's key, and a few things without."""

    def __init__(self, issuer: Issuer, places: ClaimMap) -> None:
        self._issuer = issuer
        self._places = places
        self._now = int(time.time())

    def token(self, **changes: object) -> str:
        """Returns a good token, changed by ``changes``."""
        return self._signed(self._header(), self._claims(**changes))

    def _claims(self, **changes: object) -> dict[str, object]:
        good = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "tenant_id": "acme",
            "roles": ["admin"],
            "iat": self._now,
            "exp": self._now + 3600,
        }
        return placed({name: value for name, value in (good | changes).items() if value is not GONE}, self._places)

    @staticmethod
    def _header(**changes: object) -> dict[str, object]:
        good = {"alg": "RS256", "typ": "JWT", "kid": "one"}
        return {name: value for name, value in (good | changes).items() if value is not GONE}

    def _signed(self, header: object, payload: object, *, algorithm: str = "RS256") -> str:
        start = f"{encoded(header)}.{encoded(payload)}"
        data, key = start.encode(), self._issuer.key
        match algorithm:
            case "RS512":
                signature = key.sign(data, padding.PKCS1v15(), hashes.SHA512())
            case "PS256":
                signature = key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
            case "ES256":
                signature = ec.generate_private_key(ec.SECP256R1()).sign(data, ec.ECDSA(hashes.SHA256()))
            case _:
                signature = key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        return f"{start}.{encoded(signature)}"

    def good(self) -> Iterator[tuple[str, str]]:
        odd: list[dict[str, object]] = [
            {},
            {"aud": [AUDIENCE]},
            {"aud": ["account", AUDIENCE]},
            {"roles": []},
            {"nbf": self._now - 10},
            {"email": "ada@example.com"},
            {"sub": "ádà l."},
            {"nested": {"a": [1, {"b": None}]}},
            {"nested": json.loads("[" * 99 + "]" * 99)},
            {"exp": self._now + MAX_LIFETIME_SECONDS},
            {"exp": self._now + 3600.5},
            {"iat": self._now - 0.5},
            {"nbf": self._now - 10.5},
            {"exp": float(self._now + 3600), "iat": float(self._now), "nbf": float(self._now)},
            {"roles": GONE},
            {"roles": None},
        ]
        for changes in odd:
            yield f"good {changes}", self._signed(self._header(), self._claims(**changes))
        yield "good typ at+jwt", self._signed(self._header(typ="at+jwt"), self._claims())
        yield "good with many groups", self._signed(self._header(), self._claims(groups=["x" * 50] * 200))
        text = json.dumps(self._claims(exp=-1, iat=-2))
        text = text.replace('"exp": -1', f'"exp": {self._now + 3600}000e-3').replace(
            '"iat": -2', f'"iat": {self._now / 1e9:.9f}e9'
        )
        yield "good times with exponents", self._signed(self._header(), text)
        outer, *inner = self._places.roles
        for value in (GONE, None, {}, {"Roles": ["admin"]}) if inner else ():
            claims = {**self._claims(), outer: value}
            kept = {claim: held for claim, held in claims.items() if held is not GONE}
            yield f"good {outer} {'missing' if value is GONE else repr(value)}", self._signed(self._header(), kept)
        for name, other in CLAIM_MAPS.items():
            # Another issuer's token, whose tenant is found and whose roles are not.
            if other != self._places and other.tenant == self._places.tenant:
                yield f"good shaped by {name}", self._signed(self._header(), Forge(self._issuer, other)._claims())
        yield "good no typ", self._signed(self._header(typ=GONE), self._claims())

    def signatures(self) -> Iterator[tuple[str, str]]:
        for algorithm in ("none", "None", "NONE", "nOnE", "", None, 1, ["RS256"], "RS512", "PS256", "ES256", GONE):
            named = self._header(alg=algorithm)
            yield f"unsigned {algorithm!r}", f"{encoded(named)}.{encoded(self._claims())}."
            yield f"signed with RS256 as {algorithm!r}", self._signed(named, self._claims())
        for algorithm in ("RS512", "PS256", "ES256"):
            yield f"alg {algorithm}", self._signed(self._header(alg=algorithm), self._claims(), algorithm=algorithm)
        public = self._issuer.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for name, secret in (("pem", public), ("jwks", json.dumps(self._issuer.key_set()).encode()), ("nothing", b"")):
            start = f"{encoded(self._header(alg='HS256'))}.{encoded(self._claims())}"
            signature = hmac.new(secret, start.encode(), hashlib.sha256).digest()
            yield f"HS256 keyed with {name}", f"{start}.{encoded(signature)}"
        foreign = Forge(Issuer(rsa.generate_private_key(public_exponent=65537, key_size=2048)), self._places)
        yield "signed by somebody else", foreign._signed(self._header(), self._claims())
        header, payload, signature_text = self._signed(self._header(), self._claims()).split(".")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        spare = signature_text[:-1] + alphabet[alphabet.index(signature_text[-1]) ^ 1]
        yield "another payload", f"{header}.{encoded(self._claims(tenant_id='other'))}.{signature_text}"
        yield "spare bits of the signature", f"{header}.{payload}.{spare}"
        yield "padded signature", f"{header}.{payload}.{signature_text}=="
        yield "cut signature", f"{header}.{payload}.{signature_text[:-4]}"

    def headers(self) -> Iterator[tuple[str, str]]:
        odd_keys: list[object] = [
            GONE,
            None,
            "",
            "unknown",
            "two",
            "../../../dev/null",
            "k1' OR '1'='1",
            "ONE",
            "one\0",
        ]
        for key_id in (*odd_keys, 1, True, ["one"], {}, "k" * 5000):
            yield f"kid {str(key_id)[:20]!r}", self._signed(self._header(kid=key_id), self._claims())
        critical: list[dict[str, object]] = [
            {"crit": ["exp2"], "exp2": 1},
            {"crit": ["b64"], "b64": False},
            {"crit": []},
            {"crit": "x"},
        ]
        for extra in critical:
            yield f"header {extra}", self._signed(self._header(**extra), self._claims())
        url = "http://127.0.0.1:1/jwks.json"
        foreign = Forge(Issuer(rsa.generate_private_key(public_exponent=65537, key_size=2048)), self._places)
        own = foreign._issuer.key_set()["keys"][0]
        named: list[dict[str, object]] = [{"jku": url}, {"x5u": url}, {"jwk": own}, {"x5c": ["MIIB"]}]
        for extra in named:
            yield f"key from the token: {next(iter(extra))}", foreign._signed(self._header(**extra), self._claims())

    def claims(self) -> Iterator[tuple[str, str]]:
        now = self._now
        day = MAX_LIFETIME_SECONDS
        odd: dict[str, list[object]] = {
            "exp": [
                GONE,
                0,
                None,
                "soon",
                str(now + 3600),
                -1,
                now - 60,
                True,
                [now],
                10**18,
                now + day + 60,
            ],
            "iat": [GONE, None, "now", now + 3600, True, 0.5, now - day],
            "nbf": [now + 60, "never", True],
            "aud": [
                GONE,
                None,
                "",
                "other",
                f"{AUDIENCE}/",
                f"https://{AUDIENCE}",
                AUDIENCE.upper(),
                [],
                ["other"],
                [1],
                1,
            ],
            "iss": [
                GONE,
                None,
                "",
                ISSUER[:-1],
                f"{ISSUER}x",
                ISSUER.upper(),
                ISSUER.replace("https", "http"),
                [ISSUER],
                1,
            ],
            "sub": [GONE, None, "", 1, ["ada"], "a" * 256, "a\nb", "a\0", "a\r\nx-tenant: b", "a\u200b"],
            "tenant_id": [
                GONE,
                None,
                "",
                1,
                True,
                ["acme"],
                {"a": 1},
                "a'; DROP TABLE users",
                "*",
                "a" * 64,
                "acme\n",
                "ácme",
            ],
            "roles": ["admin", True, 1, {}, {"admin": True}, [1], [["admin"]], ["admin", 1]],
            "email": [1, True, None, ["a@example.com"]],
        }
        for name, values in odd.items():
            for value in values:
                shown = "missing" if value is GONE else repr(value)[:40]
                yield f"{name} {shown}", self._signed(self._header(), self._claims(**{name: value}))

    def numbers(self) -> Iterator[tuple[str, str]]:
        for name in ("exp", "iat", "nbf"):
            for number in ("1e400", "-1e400", "NaN", "Infinity", "1e18", "9" * 400):
                text = json.dumps(self._claims(**{name: 0})).replace(f'"{name}": 0', f'"{name}": {number}')
                yield f"{name} {number[:10]}", self._signed(self._header(), text)

    def twice(self) -> Iterator[tuple[str, str]]:
        good = json.dumps(self._claims())
        roles, *inner = self._places.roles
        for name, other in (
            ("sub", '"root"'),
            (self._places.tenant[0], '"other"'),
            ("exp", "99999999999"),
            (roles, json.dumps({inner[0]: []}) if inner else "[]"),
            ("aud", '"x"'),
        ):
            yield f"{name} twice, ours last", self._signed(self._header(), f'{{"{name}": {other}, {good[1:]}')
            yield f"{name} twice, ours first", self._signed(self._header(), f'{good[:-1]}, "{name}": {other}}}')
        header = json.dumps(self._header())
        for name, other in (("alg", "none"), ("kid", "two"), ("typ", "x")):
            yield f"{name} twice", self._signed(f'{{"{name}": "{other}", {header[1:]}', self._claims())

    def places(self) -> Iterator[tuple[str, str]]:
        """Tokens of issuers that put tenant and roles elsewhere."""
        for name, other in CLAIM_MAPS.items():
            if other.tenant != self._places.tenant:
                yield f"shaped by {name}", self._signed(self._header(), Forge(self._issuer, other)._claims())
        outer, *inner = self._places.roles
        for value in ("admin", ["admin"], [["admin"]], 1) if inner else ():
            yield f"{outer} {value!r}", self._signed(self._header(), {**self._claims(), outer: value})
        for name in inner:
            text = json.dumps(self._claims()).replace(f'{{"{name}": ', f'{{"{name}": [], "{name}": ')
            yield f"{outer}.{name} twice", self._signed(self._header(), text)

    def shapes(self) -> Iterator[tuple[str, str]]:
        payloads: list[Any] = [
            "[]",
            "null",
            "1",
            '"text"',
            "",
            "{",
            "{}",
            "\ufeff{}",
            '{"a":' * 1000 + "1" + "}" * 1000,
        ]
        good = json.dumps(self._claims())
        payloads += [b'{"sub": "\xff\xfe"}', good.encode("utf-16"), b"\xef\xbb\xbf" + good.encode(), f"{good}x"]
        payloads += [f'{good[:-1]}, "a": {"[" * levels}{"]" * levels}}}' for levels in (100, 2000)]
        for payload in payloads:
            yield f"payload {payload[:12]!r} {len(payload)}", self._signed(self._header(), payload)
        token = self._signed(self._header(), self._claims())
        first, rest = token.split(".", 1)
        yield from (
            ("dots", ".."),
            ("two parts", token.rpartition(".")[0]),
            ("four parts", f"{token}.x"),
            ("an empty fourth part", f"{token}."),
            ("padding", f"{first}=.{rest}"),
            ("rubbish behind", f"{token} x"),
        )
