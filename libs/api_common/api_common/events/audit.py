"""Audit events: who did what to whose rights and states, and who was kept from it.

Structured and versioned, so that a security team can keep and search them. They hold ids and the names of roles, never
tokens, addresses or what a request carried. A log level does not silence them.
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
"""Of the event's fields; a higher one when the meaning of a field changes."""

# These write what a resource holds; every other verb that writes moves it, deletes it or restores it.
_ORDINARY: Final = re.compile(r"(?:Batch)?(?:Create|Update)(?=[A-Z])")


class Outcome(StrEnum):
    """What became of what somebody wanted."""

    DONE = "done"
    """It is committed."""
    DENIED = "denied"
    """They may not."""
    UNKNOWN = "unknown"
    """The answer to COMMIT was lost, so it may be done or not."""


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
    """Tells whether all effects of ``method`` are events: what administrators do, and verbs beyond plain writing."""
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
        principal: whose credential it was; None when the process at the other end was refused before.
        service: the SPIFFE id of the process at the other end.
        facts: what else this action needs to be understood.
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
            yield ResourceInfo(type_of(resource), _plain(found.id))


def _plain(id: str) -> str:
    # A request may not have been checked yet: nothing but an id goes into the log.
    return id if UUID_PATTERN.fullmatch(id) else ""
