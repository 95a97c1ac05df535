"""Tells the auditor what a call did or was kept from doing: driven by the contract, so no servicer forgets it."""

from typing import Any, Final

from google.protobuf.message import DecodeError

from api_common.contract import MethodPolicy
from api_common.db import TransactionOutcome
from api_common.errors import AuthorizationError, ResourceInfo
from api_common.events import Outcome, is_audited, record_audit_event, subjects
from api_common.rpc.adapter import Call, Layer

# A refused request is looked into for the id it names only while that costs next to nothing.
_MAX_READ_BYTES: Final = 8 * 1024


def audit(method: MethodPolicy, within: Layer) -> Layer:
    """Records every denial, every effect of an audited method and every change of roles, after the commit."""
    audited = is_audited(method)

    async def layer(call: Call) -> None:
        try:
            await within(call)
        finally:
            # Also when the caller has gone.
            if isinstance(call.error, AuthorizationError):
                _denied(call, call.error)
            elif (
                (audited or call.role_changes) and call.outcome is not TransactionOutcome.NOTHING and not call.replayed
            ):
                _done(call, audited=audited)

    return layer


def _denied(call: Call, error: AuthorizationError) -> None:
    permission = error.metadata.get("permission")
    _record(call, action=call.method.path[1:], outcome=Outcome.DENIED, subject=_wanted(call), permission=permission)


def _done(call: Call, *, audited: bool) -> None:
    outcome = Outcome.DONE if call.outcome is TransactionOutcome.COMMITTED else Outcome.UNKNOWN
    if audited and call.effect is not None:
        for subject in list(subjects(call.method, call.effect)) or (None,):
            _record(call, action=call.method.path[1:], outcome=outcome, subject=subject)
    for change in call.role_changes:
        subject = ResourceInfo(change.resource, change.id)
        _record(
            call,
            action=f"{change.resource}.roles",
            outcome=outcome,
            subject=subject,
            before=change.before,
            after=change.after,
        )


def _wanted(call: Call) -> ResourceInfo | None:
    """Returns what a refused call was about. The refusal came before the request was looked at and must stay cheap."""
    if len(call.payload) > _MAX_READ_BYTES:
        return None
    try:
        return next(subjects(call.method, call.method.request_class.FromString(call.payload)), None)
    except (DecodeError, RecursionError):
        return None


def _record(call: Call, *, action: str, outcome: Outcome, subject: ResourceInfo | None, **facts: Any) -> None:
    record_audit_event(
        action=action,
        outcome=outcome,
        principal=call.principal,
        service=call.peer.identity if call.peer else "",
        subject=subject,
        request_id=call.headers.request_id,
        **facts,
    )
