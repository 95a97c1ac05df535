"""The error that every failed call raises; `ameide_client.errors` has a class for each reason of the contract."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import grpc


@dataclass(frozen=True, slots=True)
class Violation:
    """One malformed field of a request."""

    field: str
    """Its path, `user.email`."""
    description: str
    """What is wrong with it, for people."""
    reason: str = ""
    """The same for programs, `TOO_LONG`."""


@dataclass(eq=False, repr=False)
class ApiError(Exception):
    """A failed call. Reasons that are newer than this client raise this class itself."""

    message: str
    """The server's sentence, for people."""
    _: KW_ONLY
    code: grpc.StatusCode
    """The gRPC status."""
    reason: str = ""
    """The reason of the contract, `EMAIL_TAKEN`; empty if the call failed before a server saw it."""
    request_id: str = ""
    """The id by which the operators of the API find the call."""
    retry_after_seconds: float | None = None
    """How long the server asks clients to wait before they repeat the call."""
    violations: Sequence[Violation] = ()
    """The malformed fields."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Values that belong to the reason."""

    def __str__(self) -> str:
        said = [f"{self.reason or self.code.name}: {self.message}"]
        said += [f"{one.field}: {one.description}" for one in self.violations]
        return "\n  ".join([*said, f"request id: {self.request_id}"] if self.request_id else said)
