"""Package telemetry holds metrics, access lines and traces, under the names that docs/telemetry.md lists."""

from api_common.telemetry.metrics import UNSILENCED as UNSILENCED
from api_common.telemetry.metrics import Metrics as Metrics
from api_common.telemetry.metrics import configure_logging as configure_logging
from api_common.telemetry.occupancy import Occupancy as Occupancy
from api_common.telemetry.occupancy import ShareUse as ShareUse
from api_common.telemetry.trace import Attributes as Attributes
from api_common.telemetry.trace import SpanRecord as SpanRecord
from api_common.telemetry.trace import Trace as Trace
from api_common.telemetry.tracing import Tracer as Tracer
