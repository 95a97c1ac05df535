"""The configuration of the edge as it is built, by its parts."""

from typing import Any, Final

import yaml

from tools.edge.build import ENVOY, build
from tools.edge.layout import clusters

CONFIG: Final = build()
# The services; what else the edge speaks to comes after them.
_CLUSTERS: Final = clusters(ENVOY / "local" / "clusters.yaml")["resources"]
*CLUSTERS, ISSUER_CLUSTER, COLLECTOR_CLUSTER = _CLUSTERS
LISTENERS: Final = CONFIG["static_resources"]["listeners"]
MANAGER: Final = LISTENERS[0]["filter_chains"][0]["filters"][0]["typed_config"]
ROUTES: Final = MANAGER["route_config"]["virtual_hosts"][0]["routes"]
DISCOVERED: Final = {
    resource["name"]: resource
    for resource in yaml.safe_load((ENVOY / "local" / "authentication.yaml").read_text())["resources"]
}
FILTERS: Final = {
    one["name"].split(".")[-1]: DISCOVERED.get(one["name"], one)["typed_config"] for one in MANAGER["http_filters"]
}
RESOURCE: Final = "/.well-known/oauth-protected-resource"
OPEN: Final = (
    *("/healthz", "/", RESOURCE, "/openapi.json", "/llms.txt", "/docs"),
    *("/docs/start.js", "/docs/page.css", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"),
    *("/docs/live", "/console", "/console/console.js", "/console/console.css", "/console/sign-in"),
)
MAPPERS: Final = MANAGER["local_reply_config"]["mappers"]


def dig(node: Any, *path: str | int) -> Any:
    for step in path:
        node = node[step]
    return node
