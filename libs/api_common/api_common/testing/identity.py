"""Callers with real, signed tokens of an issuer that lives as long as the tests."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import RSAAlgorithm

from api_common.authn import public_jwk

ISSUER: Final = "https://issuer.test/"
"""The `iss` that services under test believe."""
AUDIENCE: Final = "ameide-api"
"""The `aud` that services under test ask for."""
PEPPER: Final = "the pepper of services under test"
"""The key of the hash under which API keys are stored."""
KEY_ID: Final = "test-1"
"""The `kid` of the issuer's key."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a token."""

    token: str
    """A signed JWT."""
    tenant_id: str
    """The tenant that the token names."""
    subject: str
    """The `sub` that the token names."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The call metadata that carries the token."""
        return (("authorization", f"Bearer {self.token}"),)


class Identity:
    """An issuer: signs tokens, publishes its key set in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.private_key: Final = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = {**RSAAlgorithm.to_jwk(self.private_key.public_key(), as_dict=True), "kid": KEY_ID, "alg": "RS256"}
        self.key_set: Final[dict[str, Any]] = {"keys": [{**public, "use": "sig"}]}
        self.jwks_path: Final = folder / "jwks.json"
        self.jwks_path.write_text(json.dumps(self.key_set))
        self.signing_key_path: Final = folder / "internal.pem"
        signing_key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self.signing_key_path.write_bytes(signing_key)
        self.internal_jwks_path: Final = folder / "internal-jwks.json"
        self.internal_jwks_path.write_text(json.dumps({"keys": [public_jwk(signing_key)]}))

    def caller(self, tenant_id: str, *roles: str, subject: str = "ada", email: str = "", **claims: Any) -> Caller:
        """Returns a caller of ``tenant_id``; ``claims`` replace or add to the token's."""
        return Caller(
            self.sign(self.claims(tenant_id, *roles, subject=subject, email=email) | claims), tenant_id, subject
        )

    def claims(self, tenant_id: str, *roles: str, subject: str = "ada", email: str = "") -> dict[str, Any]:
        """Returns the claims of a good token that outlives a run on a slow machine."""
        now = int(time.time())
        return {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": subject,
            "tenant_id": tenant_id,
            "roles": list(roles),
            "email": email or f"{subject}@example.com",
            "iat": now,
            "exp": now + 12 * 3600,
        }

    def sign(self, claims: dict[str, Any]) -> str:
        """Signs any claims, good or bad."""
        return jwt.encode(claims, self.private_key, algorithm="RS256", headers={"kid": KEY_ID})
