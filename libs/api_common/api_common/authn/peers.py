"""Who may call a service, by the certificate at the other end of the connection, and in whose name.

The edge passes on the user's own token, which it has verified. A sibling service may act for a user only with a token
that it made for this very call (`service_tokens`): a user's token in its hands is refused.
"""

import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final

import grpc

from api_common.authn.oidc import AuthProvider
from api_common.authn.principal import Principal
from api_common.authn.service_tokens import CLOCK_SKEW_SECONDS, Peer, spiffe_id, verify_service_token
from api_common.errors import AuthorizationError, UnauthenticatedError

TRUST_DOMAIN: Final = "spiffe://ameide.local/"
"""What the names of all our processes begin with."""

EDGE: Final = f"{TRUST_DOMAIN}edge"
"""The name of Envoy."""

SERVICE_ROLES: Final = frozenset({"service"})
"""What a service is to the internal methods of another."""

_NOT_SERVED: Final = "This service does not serve this caller."
_CACHE_SIZE: Final = 10_000


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


class PeerPolicy:
    """Authenticates the callers of one service.

    Args:
        users: verifies the tokens of users.
        service: this service's name, e.g. `agents`.
        callers: the names of the processes that may call what is public, e.g. `edge`.
        internal_callers: the names of the services that may call what is internal.
    """

    def __init__(
        self, users: AuthProvider, *, service: str, callers: Collection[str], internal_callers: Collection[str] = ()
    ) -> None:
        self._users = users
        self._identity = f"{TRUST_DOMAIN}{service}"
        self._callers = frozenset(f"{TRUST_DOMAIN}{name}" for name in callers)
        self._internal_callers = frozenset(f"{TRUST_DOMAIN}{name}" for name in internal_callers)
        self._verified: dict[tuple[str, Peer, str], Principal] = {}

    async def authenticate(self, token: str, *, peer: Peer | None, method: str) -> Principal:
        """Returns the user for whom ``peer`` calls the public ``method``.

        Without a peer, which only tests on loopback have, the token must be a user's.

        Raises:
            AuthorizationError: this service does not serve the peer.
            UnauthenticatedError: the token does not verify.
        """
        if peer is None:
            return await self._users.authenticate(token)
        if peer.identity not in self._callers:
            raise AuthorizationError(_NOT_SERVED)
        if peer.identity == EDGE:
            return await self._users.authenticate(token)
        return self._verify(token, peer, method)

    def authenticate_service(self, token: str, *, peer: Peer | None, method: str) -> Principal:
        """Returns the user for whom the service ``peer`` calls the internal ``method``, in the role of a service.

        No token of a user opens an internal method, whatever roles it names and whoever passes it on.

        Raises:
            AuthorizationError: this service does not serve the peer.
            UnauthenticatedError: the token is not the peer's.
        """
        if peer is None or peer.identity not in self._internal_callers:
            raise AuthorizationError(_NOT_SERVED)
        return replace(self._verify(token, peer, method), roles=SERVICE_ROLES)

    def _verify(self, token: str, peer: Peer, method: str) -> Principal:
        # A service uses a token again for half a minute (290 µs to verify, 1 to look up).
        key = (token, peer, method)
        principal = self._verified.get(key)
        if principal is None:
            principal = verify_service_token(token, peer=peer, audience=self._identity, method=method)
            if len(self._verified) >= _CACHE_SIZE:
                self._verified.clear()
            self._verified[key] = principal
        if principal.expires_at + CLOCK_SKEW_SECONDS <= time.time():
            raise UnauthenticatedError("The credential is not valid.")
        return principal
