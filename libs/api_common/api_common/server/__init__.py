"""Package server holds the process of a service: start, probes, background tasks, drain."""

from api_common.server.main import (
    MAX_METADATA_BYTES,
    RunningServer,
    Service,
    ServiceDependencies,
    StartError,
    run_service,
    running,
)
from api_common.server.retention import reap_changes

__all__ = [
    "MAX_METADATA_BYTES",
    "RunningServer",
    "Service",
    "ServiceDependencies",
    "StartError",
    "reap_changes",
    "run_service",
    "running",
]
