"""Package authn turns tokens and certificates into the verified caller."""

from api_common.authn.authenticator import EDGE, TRUST_DOMAIN, Authenticator, bearer_token, peer_of
from api_common.authn.internal_tokens import INTERNAL_ISSUER, LIFETIME_SECONDS, InternalTokenSigner, public_jwk
from api_common.authn.key_sets import MAX_AGE_SECONDS, DiscoveredKeySet, FileKeySet, KeySet
from api_common.authn.oidc import (
    CLAIM_MAPS,
    CLOCK_SKEW_SECONDS,
    MAX_TOKEN_BYTES,
    MAX_TOKEN_LIFETIME_SECONDS,
    ClaimMap,
    OidcVerifier,
)
from api_common.authn.principal import TENANT_PATTERN, Principal
from api_common.authn.service_tokens import Peer, ServiceTokenSigner
from api_common.authn.tls import channel_credentials, file_versions, server_credentials

__all__ = [
    "CLAIM_MAPS",
    "CLOCK_SKEW_SECONDS",
    "EDGE",
    "INTERNAL_ISSUER",
    "LIFETIME_SECONDS",
    "MAX_AGE_SECONDS",
    "MAX_TOKEN_BYTES",
    "MAX_TOKEN_LIFETIME_SECONDS",
    "TENANT_PATTERN",
    "TRUST_DOMAIN",
    "Authenticator",
    "ClaimMap",
    "DiscoveredKeySet",
    "FileKeySet",
    "InternalTokenSigner",
    "KeySet",
    "OidcVerifier",
    "Peer",
    "Principal",
    "ServiceTokenSigner",
    "bearer_token",
    "channel_credentials",
    "file_versions",
    "peer_of",
    "public_jwk",
    "server_credentials",
]
