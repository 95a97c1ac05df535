"""Fake nodes, and what a platform team does to them."""

from typing import Any, Final

from tests.checks.waiting import wait_until
from tests.cluster.control_plane import Api, Object

ZONE: Final = "topology.kubernetes.io/zone"
ZONES: Final = ("zone-a", "zone-b", "zone-c")
NODES: Final = "/api/v1/nodes"


class Nodes:
    """Two nodes in each of three zones."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def make(self) -> None:
        for zone in ZONES:
            for number in (1, 2):
                name = f"{zone}-{number}"
                labels = {ZONE: zone, "kubernetes.io/hostname": name}
                node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
                self._api.apply(f"{NODES}/{name}", node)
        wait_until(lambda: all(_is_ready(node) for node in self._api.items(NODES)))

    def zones(self) -> dict[str, str]:
        """Returns the zone of each node."""
        return {one["metadata"]["name"]: one["metadata"]["labels"][ZONE] for one in self._api.items(NODES)}

    def of(self, zone: str) -> list[str]:
        return [name for name, its_zone in self.zones().items() if its_zone == zone]

    def cordon(self, name: str, *, closed: bool = True) -> None:
        self._api.change(f"{NODES}/{name}", {"spec": {"unschedulable": closed}})

    def taint(self, name: str, *taints: dict[str, str]) -> None:
        """Gives a node these taints, in place of those that it was given before."""
        self._api.change(f"{NODES}/{name}", {"spec": {"taints": list(taints)}})

    def label(self, name: str, **labels: str | None) -> None:
        self._api.change(f"{NODES}/{name}", {"metadata": {"labels": labels}})

    def drain(self, name: str) -> None:
        """Does as `kubectl drain`: closes the node, and asks each pod to leave until none is there."""
        self.cordon(name)
        wait_until(lambda: self._is_empty(name))

    def _is_empty(self, name: str) -> bool:
        pods: list[dict[str, Any]] = self._api.items("/api/v1/pods", fieldSelector=f"spec.nodeName={name}")
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                self._api.evict(pod["metadata"]["namespace"], pod["metadata"]["name"])
        return not pods


def _is_ready(node: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", ()))
