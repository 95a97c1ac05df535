"""Who calls: a plain frozen value, whatever kind of credential verified."""

import re
from dataclasses import dataclass
from typing import Final, Literal

TENANT_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""What a tenant id looks like; it is written into SQL, so nothing else may pass."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose credential verified."""

    subject: str
    """The `sub` of the token: unique within the tenant."""
    tenant_id: str
    """The tenant, from the verified token only."""
    roles: frozenset[str]
    """Role names; `policy` maps them to permissions."""
    email: str = ""
    """The verified e-mail address, if the token carries one."""
    expires_at: float = 0.0
    """When the credential ends, in seconds since the epoch."""
    actor: str = ""
    """The SPIFFE id of the service that calls for the subject (RFC 8693); empty when it calls itself."""
    kind: Literal["user", "service_account"] = "user"
    """Whether a person calls, or a program with an API key."""
