"""The verified caller: a plain frozen value, whatever the kind of credential."""

import re
from dataclasses import dataclass
from typing import Final, Literal

TENANT_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""The form of a tenant id. It is written into SQL, so nothing else may pass."""

Kind = Literal["user", "service_account"]
"""Whether a person calls, or a program with an API key."""


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller whose credential verified."""

    subject: str
    """The `sub` of the token: unique within the tenant."""
    tenant_id: str
    """The tenant that the verified token names."""
    roles: frozenset[str]
    """Role names; `contract.methods` maps them to permissions."""
    email: str = ""
    """The verified e-mail address, if the token carries one."""
    expires_at: float = 0.0
    """When the credential expires, in seconds since the epoch."""
    actor: str = ""
    """The SPIFFE id of the service that calls for the subject (RFC 8693); empty when it calls itself."""
    kind: Kind = "user"
    """Whether a person calls, or a program with an API key."""
