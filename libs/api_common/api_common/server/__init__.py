"""Package server holds the process of a service: start, probes, background tasks, drain."""

from api_common.server.grpc_server import MAX_METADATA_BYTES
from api_common.server.main import run_service, running
from api_common.server.retention import reap_changes
from api_common.server.running_server import RunningServer
from api_common.server.service import Service, ServiceDependencies, StartError

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
