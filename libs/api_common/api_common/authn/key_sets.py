"""Public keys of token issuers (RFC 7517): from a file or found by OIDC discovery, replaced without a restart."""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jwt
import structlog

from api_common.errors import ExternalServiceError

MIN_FETCH_INTERVAL_SECONDS: Final = 10
"""Between two fetches of a key set, however many tokens name unknown keys: nobody floods the issuer through us."""

ALGORITHMS: Final = ("RS256", "ES256")
"""The only signature algorithms accepted; asymmetric, so that a public key can never act as a secret."""

FETCH_TIMEOUT_SECONDS: Final = 5
"""How long the issuer has to answer."""
MAX_DOCUMENT_BYTES: Final = 256 * 1024
"""The largest document that is read from an issuer."""

_log = structlog.get_logger()


class UnknownKeyError(Exception):
    """No key of the set may verify the token."""


class KeySet(ABC):
    """The current public keys of one issuer, by id."""

    MAX_AGE_SECONDS: Final = 30
    """A key set is asked for again after this: a removed key works no longer than this and the time of a fetch."""

    def __init__(self, source: str) -> None:
        self.generation = 0
        """Grows whenever the keys change, so that what was verified with older ones can be forgotten; 0 before any."""
        self._source = source
        self._document: Mapping[str, Any] | None = None
        self._keys: dict[str, jwt.PyJWK] = {}

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """Returns the key that a token names, also one that the issuer added just now; without a name, the only key.

        Raises:
            UnknownKeyError: there is no such key, or no name and more than one key.
            ExternalServiceError: the issuer has never told its keys, so nobody can say what the token is.
        """
        found = self._known(key_id)
        if found is None:
            await self._renew(MIN_FETCH_INTERVAL_SECONDS)
            found = self._known(key_id)
        if found is None:
            raise UnknownKeyError if self.generation else ExternalServiceError
        return found

    async def refresh(self) -> None:
        """Looks for newer keys; never fails: the old keys stay."""
        await self._renew(0)

    async def close(self) -> None:  # noqa: B027 - a file has none
        """Closes the connections to the issuer, if there are any."""

    @abstractmethod
    async def _fetch(self) -> Mapping[str, Any]:
        """Returns the issuer's JWKS document."""

    async def _renew(self, min_age_seconds: float) -> None:
        try:
            self._replace(await self._fetch())
        except Exception:  # noqa: BLE001 - whatever the issuer answers, or the file holds, the old keys stay
            _log.warning("key set not refreshed", source=self._source, exc_info=True)

    def _replace(self, document: Mapping[str, Any]) -> None:
        """Takes the keys of a JWKS document.

        Raises:
            ValueError: it holds no usable key.
        """
        if document == self._document:
            return
        try:
            keys = jwt.PyJWKSet.from_dict(dict(document)).keys
        except (jwt.PyJWTError, TypeError, AttributeError) as error:
            raise ValueError("holds no usable key") from error
        usable = {key.key_id: key for key in keys if key.key_id and _may_verify(key)}
        if not usable:
            raise ValueError("holds no usable key")
        self._keys = usable
        self._document = document
        self.generation += 1

    def _known(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)


def _may_verify(key: jwt.PyJWK) -> bool:
    return key.public_key_use in {None, "sig"} and key.algorithm_name in ALGORITHMS


class FileKeySet(KeySet):
    """A JWKS file; a new file is noticed within `MAX_AGE_SECONDS`.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no usable key.
    """

    def __init__(self, path: Path) -> None:
        super().__init__("file")
        self._path = path
        self._replace(json.loads(path.read_bytes()))

    async def _fetch(self) -> Any:
        return json.loads(self._path.read_bytes())


class DiscoveredKeySet(KeySet):
    """The key set that an issuer's discovery document points to.

    Source: OpenID Connect Discovery 1.0, section 4.
    """

    def __init__(self, issuer: str, *, now: Callable[[], float] = time.monotonic) -> None:
        # Where the keys are in a file, nothing is fetched.
        import httpx

        super().__init__(issuer)
        self._issuer = issuer
        self._client = httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS, follow_redirects=False)
        self._now = now
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connections to the issuer."""
        await self._client.aclose()

    async def _renew(self, min_age_seconds: float) -> None:
        # A caller that waited here for another fetch sees that the fetch was tried just now.
        async with self._fetching:
            if self._now() - self._tried_at >= min_age_seconds:
                self._tried_at = self._now()
                await super()._renew(min_age_seconds)

    async def _fetch(self) -> dict[str, Any]:
        document = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
        if document["issuer"] != self._issuer:
            raise ValueError("the discovery document is another issuer's")
        return await self._get(document["jwks_uri"])

    async def _get(self, url: str) -> dict[str, Any]:
        response = await self._client.get(url)
        response.raise_for_status()
        if len(response.content) > MAX_DOCUMENT_BYTES:
            raise ValueError("the document is larger than any we expect")
        document = response.json()
        if not isinstance(document, dict):
            raise ValueError("the document is not an object")
        return document
