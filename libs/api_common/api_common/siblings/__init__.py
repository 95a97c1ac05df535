"""Package siblings holds calls to other services: channels, deadlines, retries, circuit breakers."""

from api_common.siblings.circuit_breaker import FAILURES_TO_OPEN
from api_common.siblings.client import MAX_WAIT_SECONDS, Sibling, Siblings

__all__ = ["FAILURES_TO_OPEN", "MAX_WAIT_SECONDS", "Sibling", "Siblings"]
