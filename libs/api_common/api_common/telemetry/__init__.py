"""Package telemetry holds metrics, access lines and traces, under the names that docs/telemetry.md lists."""

from api_common.telemetry.metrics import UNSILENCED, Metrics, configure_logging
from api_common.telemetry.occupancy import Occupancy, ShareUse
from api_common.telemetry.otlp_metrics import export_forever
from api_common.telemetry.tracing import Attributes, SpanRecord, Trace, Tracer

__all__ = [
    "UNSILENCED",
    "Attributes",
    "Metrics",
    "Occupancy",
    "ShareUse",
    "SpanRecord",
    "Trace",
    "Tracer",
    "configure_logging",
    "export_forever",
]
