"""The form of an API key, and how a key is verified without being stored (ADR 14).

    ameide_<id: 32 hex><secret: 64 hex><tenant: 2 to 126 hex>_<CRC-32 of all before: 8 hex>

Id and tenant say where to look, so that the look-up stays behind the tenant wall. The secret, 256 random bits, is the
proof. Prefix and checksum let secret scanners recognise a key.
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
    id: str
    secret: str = field(repr=False)
    """The whole key, which its owner sends."""
    prefix: str
    """Its first characters, which belong to the id."""
    key_hash: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """The tenant and id under which a key is looked up."""

    tenant_id: str
    id: str


NOWHERE: Final = Place("nowhere", "00000000-0000-0000-0000-000000000000")
"""The place of a text that is no key: looking there costs as much as for a key that never existed."""


class ApiKeys:
    """Makes and verifies keys.

    Args:
        peppers: the keys of the keyed hash: the first hashes, all verify.
    """

    def __init__(self, peppers: Sequence[bytes]) -> None:
        self._peppers = peppers

    def make(self, tenant_id: str) -> NewKey:
        key_id = str(uuid_utils.uuid7())
        body = f"ameide_{key_id.replace('-', '')}{secrets.token_hex(32)}{tenant_id.encode().hex()}"
        secret = f"{body}_{_checksum(body)}"
        return NewKey(key_id, secret, secret[:_SHOWN], _hash(self._peppers[0], secret))

    def verify(self, secret: str, key_hash: bytes) -> bool:
        """Returns whether ``secret`` has the stored hash, in constant time."""
        return any([hmac.compare_digest(_hash(pepper, secret), key_hash) for pepper in self._peppers])  # noqa: C419


def find_place(secret: str) -> Place:
    """Returns the place that ``secret`` names; `NOWHERE` if it does not have the form of a key."""
    match = _FORMAT.fullmatch(secret)
    if match is None or _checksum(secret.rpartition("_")[0]) != match[3]:
        return NOWHERE
    tenant_id = bytes.fromhex(match[2]).decode(errors="replace")
    return Place(tenant_id, str(uuid.UUID(match[1]))) if TENANT_PATTERN.fullmatch(tenant_id) else NOWHERE


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _hash(pepper: bytes, secret: str) -> bytes:
    return hmac.new(pepper, secret.encode(), sha256).digest()
