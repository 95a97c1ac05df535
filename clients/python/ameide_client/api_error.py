"""The error that every failed call raises; `ameide_client.errors` has a class for each reason of the contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


class ApiError(Exception):
    """A failed call. Reasons that are newer than this client raise this class itself."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        request_id: str = "",
        retry_after_seconds: float | None = None,
        violations: Sequence[Violation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.message = message
        """The server's sentence, for people."""
        self.code = code
        """The gRPC status."""
        self.reason = reason
        """The reason of the contract, `EMAIL_TAKEN`; empty if the call failed before a server saw it."""
        self.request_id = request_id
        """The id by which the operators of the API find the call."""
        self.retry_after_seconds = retry_after_seconds
        """How long the server asks clients to wait before they repeat the call."""
        self.violations = tuple(violations)
        """The malformed fields."""
        self.metadata = dict(metadata or {})
        """Values that belong to the reason."""
