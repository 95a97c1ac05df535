"""Business events: what happened to the resources of tenants, for whoever counts, bills, reports or integrates.

Structured and versioned like audit events, which ask who used which power; these say what is different now. They hold
ids, never what a request carried. A log level does not silence them. Source: ADR 29.
"""

import re
from typing import Final

from api_common.contract import MethodPolicy, resource_of, type_of
from api_common.errors import ResourceInfo
from api_common.telemetry import UNSILENCED

VERSION: Final = 1
"""Of the event's fields; a higher one when the meaning of a field changes."""

_VERB: Final = re.compile(r"(?:Batch)?([A-Z][a-z]+)")
# Where the rule would say what is not so, or not how one says it: these calls begin what a task ends and tells.
_IRREGULAR: Final = {"deploy": "started", "retire": "retiring"}


def event_name(method: MethodPolicy) -> str | None:
    """Returns what an effect of ``method`` is called, like `user.suspended`; None if no tenant's resource changes."""
    resource, verb = resource_of(method), _VERB.match(method.name)
    if method.read_only or method.internal or resource is None or verb is None:
        return None
    return f"{type_of(resource)}.{_participle(verb[1].lower())}"


def record_business_event(
    name: str,
    resource: ResourceInfo,
    *,
    etag: str,
    tenant_id: str,
    actor: str,
    service: str = "",
    request_id: str = "",
    trace_id: str = "",
) -> None:
    """Writes one event about a committed change; calls are told of by the pipeline, tasks call this.

    Args:
        name: `<resource>.<what it was>`.
        etag: the resource's, after the change; empty if it has none.
        actor: the subject of the credential, or for whom the task works.
        service: the SPIFFE id of the process at the other end, if a call did it.
        request_id: of the call that did it, or began it.
    """
    UNSILENCED.info(
        "business",
        version=VERSION,
        name=name,
        resource={"type": resource.type, "id": resource.id, "etag": etag or None},
        tenant_id=tenant_id,
        actor={"subject": actor, "service": service or None},
        request_id=request_id or None,
        trace_id=trace_id or None,
    )


def _participle(verb: str) -> str:
    return _IRREGULAR.get(verb) or (f"{verb}d" if verb.endswith("e") else f"{verb}ed")
