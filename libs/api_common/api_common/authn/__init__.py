"""Package authn holds what turns tokens and certificates into the verified caller."""

from api_common.authn.authenticator import EDGE as EDGE
from api_common.authn.authenticator import TRUST_DOMAIN as TRUST_DOMAIN
from api_common.authn.authenticator import Authenticator as Authenticator
from api_common.authn.authenticator import bearer_token as bearer_token
from api_common.authn.authenticator import peer_of as peer_of
from api_common.authn.internal_tokens import INTERNAL_ISSUER as INTERNAL_ISSUER
from api_common.authn.internal_tokens import InternalTokenSigner as InternalTokenSigner
from api_common.authn.internal_tokens import public_jwk as public_jwk
from api_common.authn.key_sets import DiscoveredKeySet as DiscoveredKeySet
from api_common.authn.key_sets import FileKeySet as FileKeySet
from api_common.authn.key_sets import KeySet as KeySet
from api_common.authn.oidc import CLAIM_MAPS as CLAIM_MAPS
from api_common.authn.oidc import ClaimMap as ClaimMap
from api_common.authn.oidc import OidcVerifier as OidcVerifier
from api_common.authn.principal import TENANT_PATTERN as TENANT_PATTERN
from api_common.authn.principal import Principal as Principal
from api_common.authn.service_tokens import Peer as Peer
from api_common.authn.service_tokens import ServiceTokenSigner as ServiceTokenSigner
from api_common.authn.tls import channel_credentials as channel_credentials
from api_common.authn.tls import server_credentials as server_credentials
