"""The edge's clusters of one machine: one per service of `services.yaml`, made of the pattern in `clusters.yaml`."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from tools.topology import SERVICES, Service


def clusters(path: Path) -> dict[str, Any]:
    """Returns the resources of a `clusters.yaml`, with the services' clusters in place of the pattern `service`."""
    resources = yaml.load(path.read_text(), yaml.CSafeLoader)["resources"]
    made = [
        cluster
        for found in resources
        for cluster in (map(_of, [found] * len(SERVICES), SERVICES) if found["name"] == "service" else [found])
    ]
    return {"resources": made}


def _of(pattern: dict[str, Any], service: Service) -> dict[str, Any]:
    cluster = deepcopy(pattern)
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = service.name
    ((endpoint,),) = (one["lb_endpoints"] for one in cluster["load_assignment"]["endpoints"])
    endpoint["endpoint"]["address"]["socket_address"]["port_value"] = service.grpc_port
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]["combined_validation_context"]
    (expected,) = tls["default_validation_context"]["match_typed_subject_alt_names"]
    expected["matcher"]["exact"] = f"spiffe://ameide.local/{service.name}"
    return cluster
