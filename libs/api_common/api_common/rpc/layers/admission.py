"""Decides whether a call may reach its handler: identity, permission, then the form of the request."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import Final
from unicodedata import is_normalized

from google.protobuf.message import Message
from protovalidate import Validator, Violation

from api_common import errors
from api_common.authn import EDGE, Authenticator, Principal, bearer_token
from api_common.authz import Directory
from api_common.call import CallContext
from api_common.contract import MAX_FIELDS, FieldBehavior, MethodPolicy, Precondition, WireScan, is_granted
from api_common.db import TenantSemaphore, Turn
from api_common.rpc.adapter import decode
from api_common.rpc.call import Admitted, Call, Layer
from api_common.rpc.layers.answer_cache import KeptAnswers
from api_common.settings import SharesSettings
from api_common.telemetry import ShareUse

MAX_MESSAGE_BYTES: Final = 10 * 1024 * 1024
"""The largest request; one byte more is refused."""

MAX_EXPLAINED_PARTS: Final = 200
"""A malformed request of more messages and items gets only its first violation."""

SMALL_BYTES: Final = 64 * 1024
"""Messages up to this size do not count by their bytes: the share of calls bounds them."""

_validator: Final = Validator()
REASONS_BY_RULE: Final[Mapping[str, errors.ViolationReason]] = {
    "required": "REQUIRED",
    "unique": "DUPLICATE",
    **dict.fromkeys(("max_len", "max_bytes", "max_items", "max_pairs"), "TOO_LONG"),
    **dict.fromkeys(("gt", "gte", "lte", "gte_lte", "gt_now"), "OUT_OF_RANGE"),
    **dict.fromkeys(("in", "not_in", "defined_only"), "INVALID_VALUE"),
}
"""By the last part of a rule's id; all other rules are about the form."""


class Shares:
    """What each tenant, and each principal of it, holds of this process at the same time (ADR 36)."""

    MOST_WAITING: Final = 16
    """How many calls of a tenant or principal wait until their earlier answers are paid for; more are refused."""

    def __init__(self, settings: SharesSettings, *, now: Callable[[], float] = time.monotonic) -> None:
        self._limits = {
            ("calls", "tenant"): settings.tenant_calls,
            ("calls", "principal"): settings.principal_calls,
            ("watches", "tenant"): settings.tenant_watches,
            ("watches", "principal"): settings.principal_watches,
            ("bytes", "tenant"): settings.tenant_bytes,
            ("bytes", "principal"): settings.principal_bytes,
            # These are bytes a second.
            ("answers", "tenant"): settings.tenant_answers,
            ("answers", "principal"): settings.principal_answers,
        }
        self._held: dict[tuple[str, str], dict[object, int]] = {share: {} for share in self._limits}
        # When the answers of a holder are paid for, at its rate.
        self._paid: dict[str, dict[object, float]] = {"tenant": {}, "principal": {}}
        self._refusals = dict.fromkeys(self._limits, 0)
        self._lines, self._lanes = TenantSemaphore(settings.tenant_turns), TenantSemaphore(1)
        self._expensive = TenantSemaphore(1)
        self._now = now

    def hold(self, principal: Principal, amounts: Mapping[str, int]) -> Callable[[], None]:
        """Counts an amount of each resource for a principal and its tenant; returns what ends that.

        Raises:
            RateLimitError: one of the two would hold more than its share.
        """
        wanted = [
            ((resource, holder), who, amounts[resource]) for resource in amounts for holder, who in _holders(principal)
        ]
        for share, who, amount in wanted:
            if self._held[share].get(who, 0) + amount > self._limits[share]:
                raise self._refusal(*share)
        for share, who, amount in wanted:
            self._held[share][who] = self._held[share].get(who, 0) + amount

        def release() -> None:
            for share, who, amount in wanted:
                left = self._held[share].pop(who) - amount
                if left:
                    self._held[share][who] = left

        return release

    def charge(self, principal: Principal, size: int) -> float:
        """Counts bytes of answers for a principal and its tenant; returns how many seconds their later calls wait."""
        now = self._now()
        for holder, who in _holders(principal):
            unpaid = {one: end for one, end in self._paid[holder].items() if end > now}
            unpaid[who] = unpaid.get(who, now) + size / self._limits["answers", holder]
            self._paid[holder] = unpaid
        return max(self._seconds_unpaid(*one) for one in _holders(principal))

    @asynccontextmanager
    async def turn(self, principal: Principal, *, expensive: bool = False, pays: bool = True) -> AsyncIterator[Turn]:
        """Waits until fewer calls of the tenant are worked on than may be; yields the turn.

        The event loop does one thing after the other: without turns a call would wait for all that one tenant began.
        While large answers of the last second exceed a share, its calls come one after the other, as they are paid for.

        Args:
            expensive: whether the call waits for the tenant's one turn for batches, new watches and large requests.
            pays: whether the call waits for earlier answers.

        Raises:
            RateLimitError: too many of its calls wait for earlier answers.
        """
        turn = Turn(self._expensive if expensive else self._lines, principal.tenant_id)
        with turn.held:
            await turn.take()
            unpaid = [one for one in _holders(principal) if pays and self._seconds_unpaid(*one) > 0]
            if unpaid:
                turn.end()  # Other calls of the tenant go on.
                await self._pay(*unpaid[0], turn)
                await turn.take()
            yield turn

    async def _pay(self, holder: str, who: object, turn: Turn) -> None:
        if self._lanes.users(who) > self.MOST_WAITING:
            raise self._refusal("answers", holder)
        await self._lanes.acquire(who)
        turn.held.callback(self._lanes.release, who)
        await asyncio.sleep(self._seconds_unpaid(holder, who))

    def _seconds_unpaid(self, holder: str, who: object) -> float:
        """Returns the time until the unpaid answers are those of a second."""
        return max(0, self._paid[holder].get(who, 0) - self._now() - 1)

    @property
    def use(self) -> Sequence[ShareUse]:
        """What the greatest holders hold; other threads may ask."""
        most = {share: max(held.copy().values(), default=0) for share, held in self._held.items()}
        for holder, unpaid in self._paid.items():
            seconds = max(unpaid.values(), default=0) - self._now()
            most["answers", holder] = int(min(1, max(0, seconds)) * self._limits["answers", holder])
        return [ShareUse(*share, most[share], limit, self._refusals[share]) for share, limit in self._limits.items()]

    def _refusal(self, resource: str, holder: str) -> errors.DomainError:
        limit = self._limits[resource, holder]
        self._refusals[resource, holder] += 1
        share = f"{limit} bytes of answers a second" if resource == "answers" else f"{limit} {resource}"
        return (errors.TooManyWatchesError if resource == "watches" else errors.TooManyCallsError)(
            f"This {holder} has its share of {share}; try again when some have ended.",
            metadata={"holder": holder, "resource": resource, "limit": str(limit)},
            retry_after_seconds=1,
        )


def _holders(principal: Principal) -> tuple[tuple[str, object], tuple[str, object]]:
    return ("tenant", principal.tenant_id), ("principal", (principal.tenant_id, principal.subject))


def admission(
    method: MethodPolicy,
    within: Layer,
    *,
    kept: KeptAnswers | None,
    authenticator: Authenticator,
    directory: Directory,
    shares: Shares,
) -> Layer:
    """Admits calls of ``method`` after the checks of AIP-193 and AIP-211, in their order.

    They are: identity, share, permission, size, decoding, If-Match, output-only fields, required fields, rules.

    Args:
        kept: answers those who accept an age; None if no answer is kept.
    """
    internal, read = method.internal, _reader(method)
    resource = "watches" if method.is_stream else "calls"

    async def authenticate(call: Call, token: str) -> Principal:
        # Set before the directory is asked: the access log also names callers whom it refuses.
        call.principal = await authenticator.authenticate(
            token, peer=call.incoming.peer, method=method.path, internal=internal
        )
        return call.principal

    async def authorize(call: Call, token: str, principal: Principal) -> Principal:
        incoming = call.incoming
        if not internal:
            principal = directory.recall(principal) or await directory.ask(
                CallContext(principal, incoming.headers.request_id, incoming.deadline, incoming.trace, token)
            )
        _check_permission(method, principal)
        return principal

    async def admit_again(call: Call, token: str) -> Principal:
        return await authorize(call, token, await authenticate(call, token))

    async def layer(call: Call) -> None:
        incoming = call.incoming
        token = bearer_token(incoming.headers.authorization)
        caller = await authenticate(call, token)
        amounts = {resource: 1}
        if len(call.payload) > SMALL_BYTES:
            amounts["bytes"] = len(call.payload)
        incoming.at_end(shares.hold(caller, amounts))
        principal = await authorize(call, token, caller)
        for_age = kept if incoming.headers.max_age_seconds else None
        if for_age is not None and for_age.give(call):
            return
        # A sibling does not wait: its breaker would open for everybody.
        pays = incoming.peer is None or incoming.peer.identity == EDGE
        expensive = method.rate_class == "EXPENSIVE" or len(call.payload) > SMALL_BYTES
        async with shares.turn(caller, expensive=expensive, pays=pays) as turn:
            request = await read(call)
            charge = partial(shares.charge, caller)
            call.admitted = Admitted(principal, token, request, partial(admit_again, call, token), turn, charge)
            try:
                await (within if for_age is None else for_age.layer)(call)
            finally:
                call.admitted = None  # It leads back to the call, and both would hold request and answer for long.
                size = _answered(call, sys.exception())
                if size > SMALL_BYTES:
                    shares.charge(caller, size)
        # What was written must be told; what was read may be asked for again.
        if method.read_only and not method.is_stream and size > SMALL_BYTES:
            incoming.at_end(shares.hold(caller, {"bytes": size}))

    return layer


def _answered(call: Call, error: BaseException | None) -> int:
    """Returns the bytes of answers that ``call`` made and that nobody is charged for yet."""
    if isinstance(error, errors.PayloadTooLargeError):
        # What is too large was read or measured up to this.
        return int(error.metadata.get("max_bytes", 0))
    if call.incoming.stream is not None:
        return call.incoming.stream.unpaid
    return len(call.done.response) if call.done is not None else 0


def _reader(method: MethodPolicy) -> Callable[[Call], Awaitable[Message]]:
    """Returns what decodes and checks a request of ``method``."""
    declared = method.request_class.DESCRIPTOR
    scan, behavior, precondition = WireScan(declared), FieldBehavior(declared), Precondition(declared)

    def read_at_once(call: Call) -> Message:
        payload = call.payload
        if len(payload) > MAX_FIELDS or b"\0" in payload:
            scan.check(payload)
        request = decode(method, payload)
        if_match = call.incoming.headers.if_match
        violations = [*precondition.bind(request, if_match)] if if_match else []
        if behavior.has_output_only:
            behavior.strip_output_only(request)
        if behavior.has_required:
            violations += behavior.check(request)
        violations += map(_field_violation, _broken_rules(request))
        if not payload.isascii():
            violations += islice(_decomposed_names(request), MAX_EXPLAINED_PARTS)
        if violations:
            raise errors.ValidationError(violations=violations)
        return request

    async def read(call: Call) -> Message:
        _check_size(call.payload)
        if len(call.payload) <= MAX_FIELDS:
            return read_at_once(call)
        # Python changes threads every 5 ms, so other calls go on meanwhile.
        request = await asyncio.to_thread(read_at_once, call)
        if len(call.payload) > SMALL_BYTES:
            call.payload = b""  # The request holds it all once more.
        return request

    return read


def _check_permission(method: MethodPolicy, principal: Principal) -> None:
    permission = method.permission
    if not is_granted(permission, principal.roles):
        raise errors.AuthorizationError(f"This needs the permission {permission}.", metadata={"permission": permission})
    if method.users_only and principal.kind != "user":
        raise errors.AuthorizationError("This is for users, not for service accounts.")


def _broken_rules(request: Message) -> list[Violation]:
    # The time to collect violations grows faster than their number (measured: 500 empty nodes 30 ms, 300,000 25 s) and
    # blocks the event loop. Finding the first one takes 0.2 ms.
    first = _validator.collect_violations(request, fail_fast=True)
    if first and len(list(islice(_parts(request), MAX_EXPLAINED_PARTS))) < MAX_EXPLAINED_PARTS:
        return _validator.collect_violations(request)
    return first


def _parts(message: Message) -> Iterator[object]:
    """Yields ``message``, every message in its fields, and every item of its lists and maps."""
    yield message
    for field, value in message.ListFields():
        if field.is_repeated and (field.message_type is None or field.message_type.GetOptions().map_entry):
            yield from value
        elif field.message_type is not None:
            for inner in value if field.is_repeated else (value,):
                yield from _parts(inner)


def _decomposed_names(message: Message, within: str = "") -> Iterator[errors.FieldViolation]:
    """Yields display names that are not in Normalization Form C: names that look the same must be the same."""
    for declared, value in message.ListFields():
        path, held = f"{within}{declared.name}", declared.message_type
        if declared.name == "display_name" and not is_normalized("NFC", value):
            yield errors.FieldViolation(path, "must be in Unicode's Normalization Form C", "INVALID_FORMAT")
        # Google's own messages and maps hold no names.
        if held is None or not held.full_name.startswith("ameide.") or held.GetOptions().map_entry:
            continue
        for where, inner in enumerate(value) if declared.is_repeated else (("", value),):
            yield from _decomposed_names(inner, f"{path}[{where}]." if declared.is_repeated else f"{path}.")


def _check_size(payload: bytes) -> None:
    if len(payload) > MAX_MESSAGE_BYTES:
        raise errors.PayloadTooLargeError(
            f"A request may hold {MAX_MESSAGE_BYTES} bytes at most.", metadata={"max_bytes": str(MAX_MESSAGE_BYTES)}
        )


def _field_violation(violation: Violation) -> errors.FieldViolation:
    proto = violation.proto
    path = ""
    for element in proto.field.elements if proto.field else ():
        path += f".{element.field_name}"
        subscript = element.subscript
        if subscript is not None:
            path += f"[{subscript.value}]"
    reason = REASONS_BY_RULE.get(proto.rule_id.rpartition(".")[2], "INVALID_FORMAT")
    return errors.FieldViolation(path[1:], proto.message or "is malformed", reason)
