"""Business events: what changed in the resources of tenants, for billing, reports and integrations.

They are structured and versioned like audit events, which record who used a power; these record what changed. They hold
ids, never parts of a request. No log level silences them. Source: ADR 29.
"""

import re
from typing import Final

from api_common.contract import MethodPolicy, resource_of, type_of
from api_common.errors import ResourceInfo
from api_common.telemetry import UNSILENCED

VERSION: Final = 1
"""The version of the event's fields; it grows when the meaning of a field changes."""

_VERB: Final = re.compile(r"(?:Batch)?([A-Z][a-z]+)")
# The regular participle would be wrong: these calls only begin what a task finishes and reports.
_IRREGULAR: Final = {"deploy": "started", "retire": "retiring"}


def event_name(method: MethodPolicy) -> str | None:
    """Returns the name of the events of ``method``, as `user.suspended`; None if it changes no tenant's resource."""
    resource, verb = resource_of(method), _VERB.match(method.name)
    if method.read_only or method.internal or resource is None or verb is None:
        return None
    plain = verb[1].lower()
    participle = _IRREGULAR.get(plain) or (f"{plain}d" if plain.endswith("e") else f"{plain}ed")
    return f"{type_of(resource)}.{participle}"


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
    """Writes one event about a committed change. The pipeline reports calls; background tasks call this.

    Args:
        name: `<resource>.<participle>`.
        etag: the resource's, after the change; empty if it has none.
        actor: the subject of the credential, or the user for whom the task works.
        service: the SPIFFE id of the process at the other end of a call.
        request_id: of the call that made or began the change.
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
