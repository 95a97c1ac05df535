"""Who calls, for which tenant, within which request: plain frozen values, no transport objects."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from api_common.authn import Principal
from api_common.db import Transaction
from api_common.telemetry import Trace

MAX_CALL_SECONDS: Final = 60
"""No unary call runs longer, whatever deadline the caller asked for."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """Who calls, within which request and until when: what goes along to a sibling service."""

    principal: Principal
    request_id: str
    """UUID of the request: echoed to the client, in every log line."""
    deadline: float
    """When the caller stops waiting, on the event loop's clock."""
    trace: Trace = field(repr=False)
    """The part of a trace that this call is; calls to siblings are steps of it."""
    token: str = field(default="", repr=False)
    """The caller's own token, to call sibling services with."""
    is_own_deadline: bool = False
    """The deadline was set here and is no caller's: a sibling that exceeds it does not answer."""


@dataclass(frozen=True, slots=True)
class RequestContext(CallContext):
    """What a servicer method knows beside its request."""

    transaction: Transaction = field(kw_only=True)
    """The tenant-bound transaction around this request; committed when the method returns."""

    @property
    def tenant_id(self) -> str:
        """The tenant that this request is bound to."""
        return self.principal.tenant_id


@dataclass(frozen=True, slots=True)
class StreamContext(CallContext):
    """What a servicer method that streams knows beside its request. It reads in transactions of its own, short ones."""

    ends_at: float = field(kw_only=True)
    """When the stream has lived long enough, on the event loop's clock."""
    check: Callable[[], Awaitable[float]] = field(kw_only=True)
    """Raises a DomainError once the caller may not go on; returns for how many seconds it need not be asked again."""

    @property
    def tenant_id(self) -> str:
        """The tenant whose rows there are."""
        return self.principal.tenant_id
