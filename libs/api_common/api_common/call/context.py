"""The contexts of a call: caller, tenant, request, deadline; plain frozen values without transport objects."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from api_common.authn import Principal
from api_common.db import Transaction, Turn
from api_common.telemetry import Trace

MAX_CALL_SECONDS: Final = 60
"""The longest time of a unary call, whatever deadline the caller sets."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """The caller, the request and the deadline: what a call to a sibling service needs."""

    principal: Principal
    request_id: str
    """UUID of the request: echoed to the client, in every log line."""
    deadline: float
    """When the caller stops waiting, on the event loop's clock."""
    trace: Trace = field(repr=False)
    """This call's part of its trace; calls to siblings are spans of it."""
    token: str = field(default="", repr=False)
    """The caller's own token, for calls to sibling services."""
    turn: Turn | None = field(default=None, repr=False)
    """Its place among the calls of its tenant that are worked on."""
    is_own_deadline: bool = False
    """The deadline is ours and not the caller's, so a sibling that exceeds it counts as unavailable."""

    @property
    def tenant_id(self) -> str:
        """The caller's tenant, to which the call is bound."""
        return self.principal.tenant_id

    async def let_go(self) -> None:
        """Gives up what others may wait for, before a call to another service."""
        if self.turn is not None:
            self.turn.end()

    async def go_on(self) -> None:
        """Waits for a turn again, after that call."""
        if self.turn is not None:
            await self.turn.take()


@dataclass(frozen=True, slots=True)
class RequestContext(CallContext):
    """What a servicer method gets beside its request."""

    transaction: Transaction = field(kw_only=True)
    """The tenant-bound transaction around this request; committed when the method returns."""

    async def let_go(self) -> None:
        """Gives up the turn, and the database connection with all locks."""
        await CallContext.let_go(self)
        await self.transaction.let_go()


@dataclass(frozen=True, slots=True)
class StreamContext(CallContext):
    """What a servicer method that streams gets beside its request. It reads in short transactions of its own."""

    check: Callable[[], Awaitable[float]] = field(kw_only=True)
    """Raises a DomainError once the caller may not go on; returns after how many seconds to check again."""
