"""Exactly one effect per idempotency key: the claim and the stored response commit with the write itself.

Source: IETF draft-ietf-httpapi-idempotency-key-header, AIP-155; the semantics are published in the design and ADR 0006.
"""

import hashlib
import re
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message
from sqlalchemy import LargeBinary, bindparam, func, null, select, update
from sqlalchemy.dialects.postgresql import insert

from api_common.authn import Principal
from api_common.db.driver import compile_statement
from api_common.db.tables import metadata
from api_common.db.transaction import Transaction
from api_common.errors import AbortedError, FieldViolation, ValidationError

RETENTION: Final = timedelta(hours=24)
"""How long a response may be replayed."""

_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")

_keys: Final = metadata().tables["idempotency_keys"]
_identity: Final = [_keys.c[name] == bindparam(name) for name in ("tenant_id", "principal", "method", "key")]
_claimed: Final = [column.name for column in _keys.c if column.name != "response"]
_upsert: Final = insert(_keys).values({name: bindparam(name) for name in _claimed})
# Blocks while another transaction holds the same key; an expired row is taken over in the same statement.
_CLAIM: Final = compile_statement(
    _upsert.on_conflict_do_update(
        index_elements=list(_keys.primary_key),
        set_={**{name: _upsert.excluded[name] for name in ("request_hash", "expire_time")}, "response": null()},
        where=_keys.c.expire_time <= func.now(),
    )
)
_FIND: Final = compile_statement(select(_keys.c.request_hash, _keys.c.response).where(*_identity))
_STORE: Final = compile_statement(
    update(_keys).where(*_identity).values(response=bindparam("stored", type_=LargeBinary))
)
# A larger response is sent as it is, in a round trip of its own: as digits it would be twice as long.
_MAX_INLINED_BYTES: Final = 8 * 1024


class ReplayedError(Exception):
    """The call was made before with the same idempotency key."""

    def __init__(self, stored: bytes) -> None:
        super().__init__()
        self.stored = stored


class IdempotencyKeyReusedError(ValidationError):
    """The idempotency key was used for another request."""

    reason = "IDEMPOTENCY_KEY_REUSED"


class IdempotencyKeyInUseError(AbortedError):
    """The first call with this idempotency key has not ended yet."""

    reason = "IDEMPOTENCY_KEY_IN_USE"
    sentence = "The first call with this idempotency key has not ended yet."


def read_key(values: tuple[str, ...]) -> str:
    """Returns the only value, or raises a ValidationError."""
    if len(values) != 1 or not _KEY.fullmatch(values[0]):
        description = "must be one value of 1 to 255 visible ASCII characters"
        violation = FieldViolation("idempotency-key", description, "INVALID_FORMAT")
        raise ValidationError("The idempotency key is malformed.", violations=[violation])
    return values[0]


class IdempotencyKey:
    """The key under which a principal may repeat a call of ``method`` without a second effect.

    Args:
        values: every `idempotency-key` of the call: one, of 1 to 255 visible ASCII characters, or a ValidationError.
    """

    def __init__(self, values: tuple[str, ...], *, principal: Principal, method: str, request: Message) -> None:
        self._request_hash: Final = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        self._identity: Final[Mapping[str, str]] = {
            "tenant_id": principal.tenant_id,
            "principal": principal.subject,
            "method": method,
            "key": read_key(values),
        }
        claim = {"request_hash": self._request_hash, "expire_time": datetime.now(UTC) + RETENTION}
        self.claim: Final = _CLAIM.inlined({**self._identity, **claim})
        """SQL that reserves the key for the transaction that begins with it.

        A second caller with the same key waits for the first to end; if the first failed, the second one runs.
        """

    async def check(self, transaction: Transaction, claimed: Awaitable[str]) -> None:
        """Checks that ``claimed``, the status of `claim`, says that the key is reserved.

        Raises:
            ReplayedError: the key has produced a response before.
            IdempotencyKeyReusedError: the key was used for another request.
            IdempotencyKeyInUseError: the first call is still running when this caller's time is up.
        """
        try:
            if await claimed == "INSERT 0 1":
                return
        except AbortedError as error:
            raise IdempotencyKeyInUseError from error
        stored = await transaction.fetch_one(_FIND, self._identity)
        if stored is None or stored["response"] is None:
            raise IdempotencyKeyInUseError
        if stored["request_hash"] != self._request_hash:
            raise IdempotencyKeyReusedError("This idempotency key was used for another request.")
        raise ReplayedError(stored["response"])

    async def store(self, transaction: Transaction, response: bytes) -> None:
        """Keeps ``response`` for replays; it is committed with the write or not at all."""
        values = {**self._identity, "stored": response}
        if len(response) > _MAX_INLINED_BYTES or transaction.released:
            await transaction.fetch_one(_STORE, values)
        else:
            transaction.last = _STORE.inlined(values)
