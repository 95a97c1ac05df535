"""Package siblings holds calls to other services: channels, deadlines, retries, circuit breakers."""

from api_common.siblings.circuit_breaker import FAILURES_TO_OPEN as FAILURES_TO_OPEN
from api_common.siblings.client import MAX_WAIT_SECONDS as MAX_WAIT_SECONDS
from api_common.siblings.client import Sibling as Sibling
from api_common.siblings.client import Siblings as Siblings
