"""Tells what a call has changed, resource by resource, after the commit: driven by the contract, as the audit is."""

from api_common.contract import MethodPolicy, resources_in, type_of
from api_common.db import TransactionOutcome
from api_common.errors import ResourceInfo
from api_common.events import event_name, record_business_event
from api_common.rpc.adapter import Call, Layer


def business_events(method: MethodPolicy, within: Layer) -> Layer:
    """Records every committed effect of ``method``; methods that change nothing are left as they are."""
    name = event_name(method)
    if name is None:
        return within

    async def layer(call: Call) -> None:
        try:
            await within(call)
        finally:
            # Also when the caller has gone.
            if call.outcome is TransactionOutcome.COMMITTED and call.wrote:
                _tell(call, name)

    return layer


def _tell(call: Call, name: str) -> None:
    assert call.principal is not None and call.effect is not None  # or nothing was committed
    for resource in resources_in(call.effect):
        record_business_event(
            name,
            ResourceInfo(type_of(resource.DESCRIPTOR), resource.id),
            etag=getattr(resource, "etag", ""),
            tenant_id=call.principal.tenant_id,
            actor=call.principal.subject,
            service=call.peer.identity if call.peer else "",
            request_id=call.headers.request_id,
            trace_id=call.trace.trace_id,
        )
