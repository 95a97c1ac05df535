"""Authentication of the REST peers in Python: PyJWT as its documentation shows it, and a cache around it."""

import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt

_KEY_SET: Final[dict[str, Any]] = json.loads(Path(os.environ["USERS_AUTH_JWKS_PATH"]).read_text())
_KEYS: Final = {key.key_id: key.key for key in jwt.PyJWKSet.from_dict(_KEY_SET).keys}
_REQUIRED: Final = ["exp", "iat", "sub", "tenant_id", "roles"]
_CACHED: Final = 10_000

PERMISSIONS: Final = {"admin": {"read", "write"}, "viewer": {"read"}}
"""The permissions of roles here; the platform has more of both."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The claims of a verified token."""

    tenant_id: str
    subject: str
    permissions: frozenset[str]
    expires: int


def verify(token: str) -> Caller:
    """Returns the caller of a token.

    Raises:
        jwt.InvalidTokenError: it is not from our issuer, or has expired.
    """
    key = _KEYS.get(jwt.get_unverified_header(token).get("kid"))
    if key is None:
        raise jwt.InvalidTokenError
    claims = jwt.decode(
        token,
        key,
        algorithms=["RS256"],
        audience=os.environ["USERS_AUTH_AUDIENCE"],
        issuer=os.environ["USERS_AUTH_ISSUER"],
        options={"require": _REQUIRED},
    )
    permissions = frozenset[str]().union(*(PERMISSIONS.get(role, ()) for role in claims["roles"]))
    return Caller(claims["tenant_id"], claims["sub"], permissions, claims["exp"])


_callers: Final[dict[bytes, Caller]] = {}


def verify_cached(token: str) -> Caller:
    """Does the same, once per token.

    Raises:
        jwt.InvalidTokenError: it is not from our issuer, or has expired.
    """
    digest = hashlib.sha256(token.encode()).digest()
    caller = _callers.get(digest)
    if caller is None:
        if len(_callers) >= _CACHED:
            _callers.clear()
        caller = _callers[digest] = verify(token)
    if caller.expires <= time.time():
        raise jwt.ExpiredSignatureError
    return caller
