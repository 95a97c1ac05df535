"""Package server holds the process of a service: start, probes, background tasks, drain."""

from api_common.server.grpc_server import MAX_METADATA_BYTES as MAX_METADATA_BYTES
from api_common.server.main import run_service as run_service
from api_common.server.main import running as running
from api_common.server.retention import reap_changes as reap_changes
from api_common.server.running_server import RunningServer as RunningServer
from api_common.server.service import Service as Service
from api_common.server.service import ServiceDependencies as ServiceDependencies
from api_common.server.service import StartError as StartError
