"""Public keys of token issuers (RFC 7517): from a file or found by OIDC discovery, replaced without a restart."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import httpx
import jwt
import structlog

MIN_FETCH_INTERVAL_SECONDS: Final = 10
"""Between two fetches of a key set, however many tokens name unknown keys: nobody floods the issuer through us."""

MAX_AGE_SECONDS: Final = 30
"""A key set is asked for again after this; with the edge's own cache it bounds how long a removed key still works."""

ALGORITHMS: Final = ("RS256", "ES256")
"""The only signature algorithms accepted; asymmetric, so that a public key can never act as a secret."""

FETCH_TIMEOUT_SECONDS: Final = 5
"""How long the issuer has to answer."""
MAX_DOCUMENT_BYTES: Final = 256 * 1024
"""The largest document that is read from an issuer."""

_log = structlog.get_logger()


class UnknownKeyError(Exception):
    """No key of the set may verify the token."""


class KeySet(Protocol):
    """The current public keys of one issuer."""

    generation: int
    """Grows whenever the keys change, so that what was verified with an older set can be forgotten."""

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """Returns the key that a token names; without a name, the only key.

        Raises:
            UnknownKeyError: there is no such key, or no name and more than one key.
        """

    async def refresh(self) -> None:
        """Looks for newer keys if it is time to; never fails: the old keys stay."""

    async def close(self) -> None:
        """Closes the connections to the issuer, if there are any."""


class _Keys:
    """Keys by id."""

    def __init__(self) -> None:
        self.generation = 0
        self._document: Mapping[str, Any] | None = None
        self._keys: dict[str, jwt.PyJWK] = {}

    def replace(self, document: Mapping[str, Any]) -> None:
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

    def get(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Closes the connections to the issuer, if there are any."""


def _may_verify(key: jwt.PyJWK) -> bool:
    return key.public_key_use in {None, "sig"} and key.algorithm_name in ALGORITHMS


class FileKeySet(_Keys):
    """A JWKS file; a new file is noticed within `MAX_AGE_SECONDS`.

    Raises:
        OSError: there is no such file.
        ValueError: it holds no usable key.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.replace(json.loads(path.read_bytes()))

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """Returns the named key, also one that came into the file just now."""
        found = self.get(key_id)
        if found is None:
            await self.refresh()
            found = self.get(key_id)
        if found is None:
            raise UnknownKeyError
        return found

    async def refresh(self) -> None:
        """Reads the file again; a broken one is reported and ignored."""
        try:
            self.replace(json.loads(self._path.read_bytes()))
        except Exception:  # noqa: BLE001 - whatever the file holds, the old keys stay
            _log.warning("key set not refreshed", source="file", exc_info=True)


class DiscoveredKeySet(_Keys):
    """The key set that an issuer's discovery document points to.

    Source: OpenID Connect Discovery 1.0, section 4.
    """

    def __init__(
        self, issuer: str, *, client: httpx.AsyncClient | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._issuer = issuer
        self._client = client or httpx.AsyncClient(timeout=FETCH_TIMEOUT_SECONDS, follow_redirects=False)
        self._now = now
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str | None) -> jwt.PyJWK:
        """Returns the named key; for an unknown name the issuer is asked, within its floor."""
        found = self.get(key_id)
        if found is None:
            await self._fetch_unless_tried_within(MIN_FETCH_INTERVAL_SECONDS)
            found = self.get(key_id)
        if found is None:
            raise UnknownKeyError
        return found

    async def refresh(self) -> None:
        """Asks the issuer again if the keys are old; while it is down they stay."""
        await self._fetch_unless_tried_within(MAX_AGE_SECONDS)

    async def close(self) -> None:
        """Closes the connections to the issuer."""
        await self._client.aclose()

    async def _fetch_unless_tried_within(self, seconds: float) -> None:
        # A caller that waited here for another fetch sees that the fetch was tried just now.
        async with self._fetching:
            if self._now() - self._tried_at < seconds:
                return
            self._tried_at = self._now()
            try:
                self.replace(await self._fetch())
            except Exception:  # noqa: BLE001 - whatever the issuer answers, the old keys stay
                _log.warning("key set not refreshed", source=self._issuer, exc_info=True)

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
