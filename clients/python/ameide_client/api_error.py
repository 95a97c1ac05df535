"""What every failed call raises; `ameide_client.errors` has a class for each reason of the contract."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that was refused."""

    field: str
    """Its path, `user.email`."""
    description: str
    """What is wrong with it."""


class ApiError(Exception):
    """A call failed. Raised itself for reasons that are newer than this client."""

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
        """What the operators of the API find the call by."""
        self.retry_after_seconds = retry_after_seconds
        """When the server wants to be asked again."""
        self.violations = tuple(violations)
        """The fields that were refused."""
        self.metadata = dict(metadata or {})
        """Values that belong to the reason."""
