"""Our own tokens, which replace API keys inside the mesh, so that a service sees one kind of credential.

The users service signs one for the edge (`server.ext_authz`). Edge and services verify it like any other OIDC token,
with the keys of this issuer.
"""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Final

import jwt
import uuid_utils
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

INTERNAL_ISSUER: Final = "https://internal.ameide.local/"
"""The `iss` of these tokens; no identity provider can have this name."""

_ALGORITHM: Final = "ES256"


class InternalTokenSigner:
    """Signs the tokens.

    Args:
        private_key: ECDSA P-256, PEM.
        audience: the `aud` that the services require.

    Raises:
        ValueError: the key is of another kind.
    """

    LIFETIME_SECONDS: Final = 60
    """The life of a token."""

    def __init__(self, private_key: bytes, *, audience: str, now: Callable[[], float] = time.time) -> None:
        self._key = _load(private_key)
        self._key_id = public_jwk(private_key)["kid"]
        self._audience = audience
        self._now = now

    def token(self, *, subject: str, tenant_id: str, roles: list[str]) -> str:
        """Returns a token for the service account ``subject``."""
        issued_at = int(self._now())
        claims = {
            "iss": INTERNAL_ISSUER,
            "aud": self._audience,
            "sub": subject,
            "tenant_id": tenant_id,
            "roles": roles,
            "iat": issued_at,
            "exp": issued_at + self.LIFETIME_SECONDS,
            "jti": str(uuid_utils.uuid4()),
        }
        return jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._key_id})


def public_jwk(private_key: bytes) -> dict[str, str]:
    """Returns the public half of ``private_key``, PEM, as a JWK whose `kid` is its thumbprint (RFC 7638).

    Raises:
        ValueError: the key is neither ECDSA P-256 nor RSA.
    """
    key = load_pem_private_key(private_key, None)
    if isinstance(key, RSAPrivateKey):
        algorithm, public = "RS256", RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        algorithm, public = _ALGORITHM, ECAlgorithm.to_jwk(_load(private_key).public_key(), as_dict=True)
    # The members that RFC 7638 names for either kind of key.
    members = {name: str(value) for name, value in public.items() if name in {"crv", "e", "kty", "n", "x", "y"}}
    canonical = json.dumps(members, separators=(",", ":"), sort_keys=True)
    kid = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    return {**members, "kid": kid, "use": "sig", "alg": algorithm}


def _load(private_key: bytes) -> EllipticCurvePrivateKey:
    key = load_pem_private_key(private_key, None)
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP256R1):
        raise ValueError("the signing key must be ECDSA P-256")
    return key
