"""Audit events: who changed rights and states, and who was denied it.

They are structured and versioned, so that a security team can keep and search them. They hold ids and names of roles,
never tokens, addresses or parts of a request. No log level silences them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from google.protobuf.message import Message

from api_common.authn import Principal
from api_common.contract import UUID_PATTERN, MethodPolicy, resource_of, resources_in, type_of
from api_common.errors import ResourceInfo
from api_common.telemetry import UNSILENCED

VERSION: Final = 1
"""The version of the event's fields; it grows when the meaning of a field changes."""

# These verbs write the content of a resource; every other writing verb changes its state, deletes or restores it.
_ORDINARY: Final = re.compile(r"(?:Batch)?(?:Create|Update)(?=[A-Z])")


class Outcome(StrEnum):
    """The outcome of an audited action."""

    DONE = "done"
    """It is committed."""
    DENIED = "denied"
    """The caller may not do it."""
    UNKNOWN = "unknown"
    """The answer to COMMIT was lost, so it may be committed or not."""


@dataclass(frozen=True, slots=True)
class RoleChange:
    """A change of the roles of a user or service account: an effect of a transaction."""

    resource: str
    """The resource's name in messages, e.g. `user`."""
    id: str
    """Its id."""
    before: tuple[str, ...]
    """The roles it had, sorted."""
    after: tuple[str, ...]
    """The roles it has now, sorted."""


def is_audited(method: MethodPolicy) -> bool:
    """Tells whether all effects of ``method`` are audited: administration, and verbs beyond plain writing."""
    return not method.read_only and (method.permission.endswith(".admin") or not _ORDINARY.match(method.name))


def record_audit_event(
    *,
    action: str,
    outcome: Outcome,
    principal: Principal | None,
    service: str,
    subject: ResourceInfo | None,
    request_id: str,
    **facts: Any,
) -> None:
    """Writes one event.

    Args:
        action: the method or, for a change of roles, `<resource>.roles`.
        principal: the caller; None if the process at the other end was refused before.
        service: the SPIFFE id of the process at the other end.
        facts: further facts about this action.
    """
    actor = {"subject": principal.subject if principal else None, "service": service or None}
    named = None if subject is None else {"type": subject.type, "id": subject.id}
    tenant_id = principal.tenant_id if principal else None
    UNSILENCED.info(
        "audit",
        version=VERSION,
        action=action,
        outcome=str(outcome),
        actor=actor,
        subject=named,
        tenant_id=tenant_id,
        request_id=request_id,
        **facts,
    )


def subjects(method: MethodPolicy, message: Message) -> Iterator[ResourceInfo]:
    """Yields the resources that a request or a response of ``method`` is about: the one it names, or those it holds."""
    for found in resources_in(message):
        # A request that names a resource by its id is not one itself.
        resource = found.DESCRIPTOR if found is not message else resource_of(method)
        if resource is not None:
            # The request may be unchecked: only an id goes into the log.
            yield ResourceInfo(type_of(resource), found.id if UUID_PATTERN.fullmatch(found.id) else "")
