"""Verifies OIDC access tokens (RFC 9068 style JWTs) of one trusted issuer.

The edge has verified the token already. Services verify it again, more strictly: the two verifiers disagree on odd
tokens (PyJWT lets the last of two equal claims win, Envoy ignores `crit`), and a caller inside the mesh may bypass the
edge.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from api_common.authn.key_sets import ALGORITHMS, KeySet, UnknownKeyError
from api_common.authn.principal import TENANT_PATTERN, Kind, Principal
from api_common.errors import CredentialFault, UnauthenticatedError

_MAX_LEVELS: Final = 100
"""As in the edge. How deep Python's parser goes depends on its version: 990 levels in 3.11, above 5,000 in 3.13."""
_REFUSED: Final = (jwt.PyJWTError, UnknownKeyError, ValueError, KeyError, TypeError, RecursionError, OverflowError)
"""What a token raises that does not verify."""
_FAULTS: Final[Mapping[type, str]] = {
    UnknownKeyError: CredentialFault.KEY,
    jwt.ExpiredSignatureError: CredentialFault.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class ClaimMap:
    """The paths of an issuer's claims; a path is claim names from the outside in."""

    tenant: tuple[str, ...]
    """The path to the tenant's id, a text."""
    roles: tuple[str, ...]
    """The path to the roles' names, a list of texts."""


CLAIM_MAPS: Final[Mapping[str, ClaimMap]] = {
    # Our development issuer, and any issuer that can be configured to use these names.
    "generic": ClaimMap(tenant=("tenant_id",), roles=("roles",)),
    # Realm roles as Keycloak issues them, the tenant by a mapper.
    "keycloak": ClaimMap(tenant=("tenant_id",), roles=("realm_access", "roles")),
    # Organizations are tenants, roles come in a namespaced claim (Auth0's rule for custom claims).
    "auth0": ClaimMap(tenant=("org_id",), roles=("https://ameide.dev/roles",)),
}
"""By the name that the settings use."""


class OidcVerifier:
    """Verifies the tokens of one issuer, whose subjects are of one ``kind``, with its current public keys."""

    MAX_LIFETIME_SECONDS: Final = 24 * 3600
    """The longest accepted time from `iat` to `exp`, so that a stolen token ends within a day."""
    MAX_TOKEN_BYTES: Final = 16 * 1024
    """Longer tokens are refused unread; the edge takes no more than this of all headers together."""
    CLOCK_SKEW_SECONDS: Final = 5
    """How far the issuer's clock may be ahead of ours."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        key_set: KeySet,
        claims: ClaimMap = CLAIM_MAPS["generic"],
        kind: Kind = "user",
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._claims = claims
        self._kind = kind
        self.key_set: Final = key_set

    async def verify(self, token: str) -> Principal:
        """Returns the bearer of ``token``.

        Raises:
            UnauthenticatedError: it does not verify. The message never says what is wrong with its claims.
        """
        key_id = _read_key_id(token)
        try:
            key = await self.key_set.find(key_id)
            claims = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name] if key.algorithm_name in ALGORITHMS else [],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self.CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "iat", "sub", "iss", "aud"]},
            )
            return self._principal(claims)
        except _REFUSED as error:
            raise UnauthenticatedError(_FAULTS.get(type(error), "")) from error

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        expires_at, issued_at = claims["exp"], claims["iat"]
        if any(type(instant) not in (int, float) for instant in (expires_at, issued_at, claims.get("nbf", 0))):
            raise ValueError("times must be numbers (RFC 7519, section 2)")
        if expires_at - issued_at > self.MAX_LIFETIME_SECONDS:
            raise ValueError("lives too long")
        subject, tenant = claims["sub"], _at(claims, self._claims.tenant)
        roles, email = _at(claims, self._claims.roles), claims.get("email", "")
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
            raise ValueError("no usable subject")
        if not isinstance(tenant, str) or not TENANT_PATTERN.fullmatch(tenant):
            raise ValueError("no usable tenant")
        # Without any role an issuer leaves the claim out; then the stored ones count.
        roles = [] if roles is None else roles
        if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
            raise ValueError("roles must be a list of texts")
        if not isinstance(email, str):
            raise ValueError("the e-mail address must be a text")
        return Principal(subject, tenant, frozenset(roles), email, float(expires_at), kind=self._kind)


def read_issuer(token: str) -> str:
    """Returns the issuer that a token names, before anything of it is verified.

    Raises:
        UnauthenticatedError: it names none.
    """
    try:
        issuer = _object(token.split(".")[1]).get("iss")
    except (ValueError, IndexError, RecursionError) as error:
        raise UnauthenticatedError(CredentialFault.MALFORMED) from error
    if not isinstance(issuer, str):
        raise UnauthenticatedError(CredentialFault.ISSUER)
    return issuer


def _read_key_id(token: str) -> str | None:
    try:
        if len(token) > OidcVerifier.MAX_TOKEN_BYTES or "=" in token:
            raise ValueError("longer than any token we accept, or padded (RFC 7515, section 2)")
        header, payload, _ = token.split(".")
        key_id = _object(header).get("kid")
        if not isinstance(key_id, str | None):
            raise TypeError("the key's id must be a text")
        _object(payload)
    except (ValueError, TypeError, RecursionError) as error:
        raise UnauthenticatedError(CredentialFault.MALFORMED) from error
    return key_id


def _object(segment: str) -> dict[str, Any]:
    """Decodes one segment and refuses what PyJWT accepts: duplicate names, encodings other than UTF-8."""
    raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    # Decoded here: given bytes, `json` would read UTF-16 and a byte order mark, too.
    value = json.loads(raw.decode(), object_pairs_hook=_without_duplicates)
    if not isinstance(value, dict) or _is_deeper(value, _MAX_LEVELS):
        raise ValueError("not an object, or nested too deep")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    return not levels or any(
        _is_deeper(one, levels - 1) for one in (value.values() if isinstance(value, dict) else value)
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _at(claims: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """Returns what is at a path, or None."""
    value: Any = claims
    for name in path:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise TypeError("not an object")
        value = value.get(name)
    return value
