"""Reports what a call did or was kept from doing: driven by the contract, so that no servicer can forget it."""

from functools import partial
from typing import Any, Final

from api_common import events
from api_common.authz import Directory
from api_common.contract import MethodPolicy, resources_in, type_of
from api_common.db import TransactionOutcome
from api_common.errors import AuthorizationError, ResourceInfo, ValidationError
from api_common.rpc.adapter import decode
from api_common.rpc.call import Call, Done, Layer
from api_common.rpc.layers.answer_cache import AnswerCache

# A denied request is decoded for the id that it names only while that costs next to nothing.
_MAX_READ_BYTES: Final = 8 * 1024


def effects(method: MethodPolicy, within: Layer, *, directory: Directory, cache: AnswerCache) -> Layer:
    """Reports every effect of ``method`` after the commit; a method that only reads has none.

    The directory forgets each changed user and the cache the changed collection, so that the change counts at once in
    this process. Each changed resource is a business event. Each effect of an audited method and each change of roles
    is an audit event.
    """
    if method.read_only:
        return within
    report = partial(_report, directory=directory, event=events.event_name(method), audited=events.is_audited(method))

    async def layer(call: Call) -> None:
        try:
            await within(call)
        finally:
            # The work may be committed although the caller has gone.
            done = call.done
            if done is not None and done.message is not None and done.outcome is not TransactionOutcome.NOTHING:
                if cache.shelves and call.principal is not None:
                    cache.drop(call.principal.tenant_id, method.collection)
                report(call, done)

    return layer


def record_denial(call: Call, error: AuthorizationError) -> None:
    """Audits that a call was denied."""
    incoming, permission = call.incoming, error.metadata.get("permission")
    _audit(call, incoming.method.path[1:], events.Outcome.DENIED, _named_resource(call), permission=permission)


def _report(call: Call, done: Done, *, directory: Directory, event: str | None, audited: bool) -> None:
    incoming, principal, message = call.incoming, call.principal, done.message
    assert principal is not None and message is not None  # or nothing was done
    committed = done.outcome is TransactionOutcome.COMMITTED
    outcome, action = events.Outcome.DONE if committed else events.Outcome.UNKNOWN, incoming.method.path[1:]
    found = [(ResourceInfo(type_of(one.DESCRIPTOR), one.id), getattr(one, "etag", "")) for one in resources_in(message)]
    for resource, etag in found:
        if resource.type == "user":
            directory.forget(principal.tenant_id, resource.id)
        if event and committed and done.wrote:
            events.record_business_event(
                event,
                resource,
                etag=etag,
                tenant_id=principal.tenant_id,
                actor=principal.subject,
                service=incoming.peer.identity if incoming.peer else "",
                request_id=incoming.headers.request_id,
                trace_id=incoming.trace.trace_id,
            )
        if audited:
            _audit(call, action, outcome, resource)
    if audited and not found:
        _audit(call, action, outcome, None)
    for change in done.effects:
        if not isinstance(change, events.RoleChange):
            continue
        changed = ResourceInfo(change.resource, change.id)
        _audit(call, f"{change.resource}.roles", outcome, changed, before=change.before, after=change.after)


def _named_resource(call: Call) -> ResourceInfo | None:
    """Returns the resource that a denied request names. The request was not checked, so this must stay cheap."""
    method, payload = call.incoming.method, call.payload
    if len(payload) > _MAX_READ_BYTES:
        return None
    try:
        return next(events.subjects(method, decode(method, payload)), None)
    except ValidationError:
        return None


def _audit(call: Call, action: str, outcome: events.Outcome, subject: ResourceInfo | None, **facts: Any) -> None:
    incoming = call.incoming
    events.record_audit_event(
        action=action,
        outcome=outcome,
        principal=call.principal,
        service=incoming.peer.identity if incoming.peer else "",
        subject=subject,
        request_id=incoming.headers.request_id,
        **facts,
    )
