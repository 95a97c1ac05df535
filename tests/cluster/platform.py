"""What a platform team has made before the chart comes (docs/runbook.md), and a pod that it does not let in."""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.checks.waiting import wait_until
from tests.cluster.control_plane import Api, Object
from tests.cluster.nodes import Nodes
from tools.topology import ROOT


def prepare(api: Api, nodes: Nodes, kinds: Iterable[Path]) -> None:
    """Makes nodes, kinds that are not part of Kubernetes, and the PriorityClasses of the runbook."""
    nodes.make()
    for path in kinds:
        _define(api, yaml.load(path.read_text(), yaml.CSafeLoader))
    text = (ROOT / "docs" / "runbook.md").read_text()
    for name, value in re.findall(r"kubectl create priorityclass (\S+) --value=(\d+)", text):
        made = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
        api.apply(f"/apis/scheduling.k8s.io/v1/priorityclasses/{name}", {**made, "value": int(value)})


def may_be_root() -> Object:
    """Returns a pod that the profile `restricted` forbids."""
    containers = [{"name": "any", "image": "registry.example.com/any"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any"}, "spec": {"containers": containers}}


def _define(api: Api, kind: Object) -> None:
    name = kind["metadata"]["name"]
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    api.apply(path, kind)

    def is_served() -> bool:
        conditions = api.get(path)["status"].get("conditions") or ()
        return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)

    wait_until(is_served)
