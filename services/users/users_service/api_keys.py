"""What an API key looks like, and how it is recognised without being kept (ADR 0014).

    ameide_<id: 32 hex><secret: 64 hex><tenant: 2 to 126 hex>_<CRC-32 of all before: 8 hex>

Id and tenant say where to look, so that looking stays behind the tenant's wall; the secret, 256 random bits, proves.
Prefix and checksum are for scanners that look for secrets where none should be.
"""

import hmac
import re
import secrets
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import uuid_utils
from api_common.authn import TENANT_PATTERN

_FORMAT: Final = re.compile(r"ameide_([0-9a-f]{32})[0-9a-f]{64}((?:[0-9a-f]{2}){1,63})_([0-9a-f]{8})")
_SHOWN: Final = len("ameide_") + 12


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was made just now."""

    id: str
    secret: str = field(repr=False)
    """The whole key, which its owner sends."""
    prefix: str
    """Its first characters, all of the id."""
    key_hash: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look for a key."""

    tenant_id: str
    id: str


NOWHERE: Final = Place("nowhere", "00000000-0000-0000-0000-000000000000")
"""Where a text that is no key is looked for, so that it costs as much as a key that never existed."""


class ApiKeys:
    """Makes keys and recognises them.

    Args:
        peppers: the keys of the keyed hash: the first hashes, all verify.
    """

    def __init__(self, peppers: Sequence[bytes]) -> None:
        self._peppers = peppers

    def make(self, tenant_id: str) -> NewKey:
        """Returns a new key of ``tenant_id``."""
        key_id = str(uuid_utils.uuid7())
        body = f"ameide_{key_id.replace('-', '')}{secrets.token_hex(32)}{tenant_id.encode().hex()}"
        secret = f"{body}_{_checksum(body)}"
        return NewKey(key_id, secret, secret[:_SHOWN], _hash(self._peppers[0], secret))

    def verify(self, secret: str, key_hash: bytes) -> bool:
        """Tells whether ``secret`` is what was hashed; takes as long either way."""
        return any([hmac.compare_digest(_hash(pepper, secret), key_hash) for pepper in self._peppers])  # noqa: C419


def find_place(secret: str) -> Place:
    """Returns where the key that ``secret`` claims to be would be; `NOWHERE` if it is none."""
    match = _FORMAT.fullmatch(secret)
    if match is None or _checksum(secret.rpartition("_")[0]) != match[3]:
        return NOWHERE
    tenant_id = bytes.fromhex(match[2]).decode(errors="replace")
    return Place(tenant_id, str(uuid.UUID(match[1]))) if TENANT_PATTERN.fullmatch(tenant_id) else NOWHERE


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _hash(pepper: bytes, secret: str) -> bytes:
    return hmac.new(pepper, secret.encode(), sha256).digest()
