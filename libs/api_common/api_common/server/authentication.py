"""Builds what verifies tokens and certificates of the callers of a service."""

import asyncio
import contextlib
from collections.abc import Collection, Mapping

from api_common.authn import (
    CLAIM_MAPS,
    INTERNAL_ISSUER,
    Authenticator,
    DiscoveredKeySet,
    FileKeySet,
    KeySet,
    OidcVerifier,
)
from api_common.server.service import Service
from api_common.settings import AuthSettings, Settings


def open_key_sets(service: Service, settings: AuthSettings, stack: contextlib.AsyncExitStack) -> Mapping[str, KeySet]:
    """Returns the public keys of each issuer that the service accepts; ``stack`` closes them.

    Raises:
        StartError: a file of keys cannot be used.
    """
    key_sets: dict[str, KeySet] = {}
    with service.using("AUTH_JWKS_PATH"):
        path = settings.jwks_path
        key_sets[settings.issuer] = DiscoveredKeySet(settings.issuer) if path is None else FileKeySet(path)
    with service.using("AUTH_INTERNAL_JWKS_PATH"):
        if settings.internal_jwks_path is not None:
            key_sets[INTERNAL_ISSUER] = FileKeySet(settings.internal_jwks_path)
    for key_set in key_sets.values():
        stack.push_async_callback(key_set.close)
    return key_sets


async def refresh_forever(key_sets: Collection[KeySet]) -> None:
    """Refreshes ``key_sets`` every `KeySet.MAX_AGE_SECONDS`, six times as often until each has keys. Never returns."""
    while True:
        await asyncio.gather(*(key_set.refresh() for key_set in key_sets))
        await asyncio.sleep(KeySet.MAX_AGE_SECONDS / (1 if all(key_set.generation for key_set in key_sets) else 6))


def open_authenticator(service: Service, settings: Settings, key_sets: Mapping[str, KeySet]) -> Authenticator:
    """Returns what authenticates the callers of ``service``."""
    auth = settings.auth
    verifiers = {
        auth.issuer: OidcVerifier(
            issuer=auth.issuer, audience=auth.audience, key_set=key_sets[auth.issuer], claims=CLAIM_MAPS[auth.claims]
        )
    }
    if (internal := key_sets.get(INTERNAL_ISSUER)) is not None:
        verifiers[INTERNAL_ISSUER] = OidcVerifier(
            issuer=INTERNAL_ISSUER, audience=auth.audience, key_set=internal, kind="service_account"
        )
    return Authenticator(
        verifiers, service=service.name, callers=service.callers, internal_callers=settings.server.internal_callers
    )
