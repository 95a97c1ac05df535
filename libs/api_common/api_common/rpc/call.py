"""One call on its way through the layers: plain values, each made by the layer that learns it, none changed later."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from google.protobuf.message import Message

from api_common.authn import Peer, Principal
from api_common.call import RequestHeaders
from api_common.contract import MethodPolicy
from api_common.db import TransactionOutcome, Turn
from api_common.errors import DomainError
from api_common.telemetry import Trace


class MessageStream(Protocol):
    """The open response of a call that streams."""

    resume_token: str
    """Of the newest message; empty before the first."""
    unpaid: int
    """Bytes that were sent and are not charged yet."""

    async def send(self, message: Message) -> None:
        """Sends one message and waits until there is room for the next."""


class Incoming(NamedTuple):
    """What the adapter reads from the transport.

    No frozen dataclass: each field of one costs a function call (docs/performance.md).
    """

    method: MethodPolicy
    receive: Callable[[], Awaitable[bytes]]
    """Returns the encoded request, or raises a DomainError if the body is not exactly one message."""
    headers: RequestHeaders
    deadline: float
    """When the caller stops waiting, on the event loop's clock."""
    trace: Trace
    """Collects what the call waits for."""
    peer: Peer | None = None
    """The process at the other end; None without TLS, in tests on loopback."""
    stream: MessageStream | None = None
    """Where a method that streams sends its messages."""
    at_end: Callable[[Callable[[], None]], None] = lambda told: None
    """Takes what to call once the response has left, or the call has ended without one."""


class Admitted(NamedTuple):
    """What admission decides."""

    principal: Principal
    """The caller with the roles that count."""
    token: str
    """The caller's credential."""
    request: Message
    """The decoded and checked request."""
    check_again: Callable[[], Awaitable[Principal]]
    """Admits the caller once more, while a stream goes on."""
    turn: Turn | None = None
    """Its place among the calls of its tenant that are worked on."""
    charge: Callable[[int], float] = lambda size: 0
    """Charges the caller for bytes of answers; returns after how many seconds it may ask for more."""


class Done(NamedTuple):
    """What the handler's work came to."""

    response: bytes
    """The encoded response."""
    message: Message | None = None
    """The handler's response; None if there was none, because the call was replayed."""
    wrote: bool = False
    """Whether the handler wrote anything."""
    outcome: TransactionOutcome = TransactionOutcome.NOTHING
    replayed: bool = False
    """The response was stored by an earlier call with the same idempotency key."""
    age_seconds: int | None = None
    """How old the response is at most, if it was kept in memory since another call."""
    effects: Sequence[object] = ()
    """What repositories report of their writes, as a `RoleChange`."""


@dataclass(slots=True)
class Call:
    """One call; the layers set each field at most once, when they know it."""

    incoming: Incoming
    payload: bytes = b""
    """The encoded request, once it has arrived."""
    principal: Principal | None = None
    """The caller, once the credential has verified; the roles are those of the credential."""
    admitted: Admitted | None = field(default=None, repr=False)
    done: Done | None = None
    """Set once the work is committed or may be, even if the caller has gone meanwhile."""
    error: DomainError | None = None
    """What to answer instead of a response."""


Layer = Callable[[Call], Awaitable[None]]
"""Does its part of a call and awaits the next layer."""
