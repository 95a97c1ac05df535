"""Who calls: the one place where a call's credential and its peer's certificate become a Principal.

The edge passes on the user's own token, which it has verified. A sibling service may act for a user only with a token
that it made for this very call (`service_tokens`): a user's token in its hands is refused.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

import grpc
from cachetools import FIFOCache

from api_common.authn.key_sets import KeySet
from api_common.authn.oidc import OidcVerifier, read_issuer
from api_common.authn.principal import Principal
from api_common.authn.service_tokens import Peer, spiffe_id, verify_service_token
from api_common.errors import AuthorizationError, CredentialFault, UnauthenticatedError

TRUST_DOMAIN: Final = "spiffe://ameide.local/"
"""The prefix of the names of all our processes."""

EDGE: Final = f"{TRUST_DOMAIN}edge"
"""The name of Envoy."""

SERVICE_ROLES: Final = frozenset({"service"})
"""The roles of a service that calls internal methods of another."""

_NOT_SERVED: Final = "This service does not serve this caller."
_CACHE_SIZE: Final = 10_000


class _Verified(NamedTuple):
    """A user's token that has verified."""

    principal: Principal
    key_set: KeySet
    generation: int
    """Of the key set when the token was verified."""


class Authenticator:
    """Authenticates the callers of one service, and remembers the tokens that verified until they expire.

    A verification costs about 200 µs, a look-up 5 (docs/performance.md). Users' tokens are remembered by digest only.

    Args:
        verifiers: verify the tokens of users and programs, by the `iss` of the tokens.
        service: this service's name, e.g. `agents`.
        callers: the names of the processes that may call public methods, e.g. `edge`.
        internal_callers: the names of the services that may call internal methods.
    """

    def __init__(
        self,
        verifiers: Mapping[str, OidcVerifier],
        *,
        service: str,
        callers: Collection[str],
        internal_callers: Collection[str] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        self._verifiers = verifiers
        self._identity = f"{TRUST_DOMAIN}{service}"
        self._callers = frozenset(f"{TRUST_DOMAIN}{name}" for name in callers)
        self._internal_callers = frozenset(f"{TRUST_DOMAIN}{name}" for name in internal_callers)
        self._now = now
        self._users: FIFOCache[bytes, _Verified] = FIFOCache(_CACHE_SIZE)
        self._services: FIFOCache[tuple[str, Peer, str], Principal] = FIFOCache(_CACHE_SIZE)

    async def authenticate(self, token: str, *, peer: Peer | None, method: str, internal: bool = False) -> Principal:
        """Returns the user for whom ``peer`` calls ``method``.

        Without a peer, which only tests on loopback have, the token must be a user's. No user's token opens an
        internal method, whatever roles it names and whichever process forwards it.

        Args:
            internal: only services may call the method; the principal then has the role of a service.

        Raises:
            AuthorizationError: this service does not serve the peer.
            UnauthenticatedError: the token does not verify. The message never says what is wrong with its claims.
        """
        if internal:
            if peer is None or peer.identity not in self._internal_callers:
                raise AuthorizationError(_NOT_SERVED)
            return replace(self._of_service(token, peer, method), roles=SERVICE_ROLES)
        if peer is not None:
            if peer.identity not in self._callers:
                raise AuthorizationError(_NOT_SERVED)
            if peer.identity != EDGE:
                return self._of_service(token, peer, method)
        if len(token) > OidcVerifier.MAX_TOKEN_BYTES:
            raise UnauthenticatedError
        digest = hashlib.sha256(token.encode()).digest()
        known = self._users.get(digest)
        if known is None or known.generation != known.key_set.generation:
            verifier = self._verifiers.get(read_issuer(token))
            if verifier is None:
                raise UnauthenticatedError(CredentialFault.ISSUER)
            known = _Verified(await verifier.verify(token), verifier.key_set, verifier.key_set.generation)
            self._users[digest] = known
        return self._unexpired(known.principal)

    def _of_service(self, token: str, peer: Peer, method: str) -> Principal:
        # A service uses a token again for half a minute (290 µs to verify, 1 to look up).
        key = (token, peer, method)
        principal = self._services.get(key)
        if principal is None:
            principal = verify_service_token(token, peer=peer, audience=self._identity, method=method)
            self._services[key] = principal
        return self._unexpired(principal)

    def _unexpired(self, principal: Principal) -> Principal:
        if principal.expires_at + OidcVerifier.CLOCK_SKEW_SECONDS <= self._now():
            raise UnauthenticatedError(CredentialFault.EXPIRED)
        return principal


def bearer_token(authorization: tuple[str, ...]) -> str:
    """Returns the token of the one `authorization` value of a call (RFC 6750).

    Raises:
        UnauthenticatedError: there is none, more than one, or it is not exactly `Bearer <token>`.
    """
    if not authorization:
        raise UnauthenticatedError("A bearer token is required.")
    if len(authorization) > 1:
        raise UnauthenticatedError(CredentialFault.SEVERAL)
    if not authorization[0].startswith("Bearer "):
        raise UnauthenticatedError(CredentialFault.SCHEME)
    return authorization[0][len("Bearer ") :]


def peer_of(transport: "grpc.aio.ServicerContext[bytes, bytes]") -> Peer | None:
    """Returns the peer of a call."""
    return read_peer(transport.auth_context())


def read_peer(connection: Mapping[str, Iterable[bytes]]) -> Peer | None:
    """Returns the peer of a connection from gRPC's `auth_context()`; None without TLS.

    A certificate that names no URI, or several, gets a name that no policy has.
    """
    certificate = next(iter(connection.get("x509_pem_cert", ())), None)
    return None if certificate is None else _peer(certificate)


@lru_cache(maxsize=1024)
def _peer(certificate: bytes) -> Peer:
    # The names that gRPC itself gives (`peer_identities()`, 4 µs cheaper) end at the first NUL and cannot tell a URI
    # from a DNS name: with them `spiffe://ameide.local/edge\0.evil.example` is the edge.
    try:
        return Peer(spiffe_id(certificate), certificate)
    except ValueError:
        return Peer("", certificate)
