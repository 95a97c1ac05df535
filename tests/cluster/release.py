"""The chart, installed by Helm in a namespace of its own, and what the cluster makes of it."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.checks.waiting import wait_until
from tests.cluster.control_plane import Api, Cluster, Object
from tests.cluster.helm import Helm
from tests.cluster.nodes import Nodes
from tests.helm.release import merge, values_of

NAME: Final = "ameide"
LIMIT_SECONDS: Final = 180
"""How long the cluster may take to do what is asked for."""
COMPONENT: Final = "app.kubernetes.io/component"
OWN: Final = f"app.kubernetes.io/instance={NAME}"
KINDS: Final = (
    "api/v1/{}/configmaps",
    "api/v1/{}/pods",
    "api/v1/{}/serviceaccounts",
    "api/v1/{}/services",
    "apis/apps/v1/{}/deployments",
    "apis/apps/v1/{}/replicasets",
    "apis/autoscaling/v2/{}/horizontalpodautoscalers",
    "apis/batch/v1/{}/jobs",
    "apis/cert-manager.io/v1/{}/certificates",
    "apis/cert-manager.io/v1/{}/issuers",
    "apis/gateway.networking.k8s.io/v1/{}/httproutes",
    "apis/monitoring.coreos.com/v1/{}/podmonitors",
    "apis/monitoring.coreos.com/v1/{}/prometheusrules",
    "apis/networking.k8s.io/v1/{}/networkpolicies",
    "apis/policy/v1/{}/poddisruptionbudgets",
)
"""Where everything is that the chart makes, and what Kubernetes makes of it."""


class Release:
    """A release of the chart with some of its examples."""

    def __init__(self, cluster: Cluster, example: str) -> None:
        self.api: Final[Api] = cluster.api
        self._namespace = example
        self._example = example
        self._helm = Helm(NAME, namespace=example, kubeconfig=cluster.kubeconfig, seconds=LIMIT_SECONDS)
        profile = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        self.api.apply(f"/api/v1/namespaces/{example}", _namespace(example, profile))

    def path(self, kind: str) -> str:
        """Returns where objects of a kind are; the kind is one of `KINDS`."""
        return f"/{kind.format(f'namespaces/{self._namespace}')}"

    # -- What is asked of Helm -------------------------------------------------------------------------------------

    def install(self) -> None:
        """Installs the example, and waits until everything is as it says."""
        self._helm.run("install", values_of(self._example))
        self.wait()

    def upgrade(self, **values: Any) -> None:
        """Upgrades to these values above the example's, and waits until everything is as they say."""
        self._helm.run("upgrade", self._values(values))
        self.wait()

    def is_refused(self, **values: Any) -> str:
        """Upgrades with values that do not get in; returns what Helm says."""
        return self._helm.refuses("upgrade", self._values(values))

    def roll_back(self, revision: int) -> None:
        self._helm.run("rollback", revision)
        self.wait()

    def test(self) -> None:
        self._helm.run("test")

    def fails_its_test(self) -> str:
        return self._helm.refuses("test")

    def uninstall(self) -> None:
        self._helm.run("uninstall")

    def _values(self, more: Mapping[str, Any]) -> dict[str, Any]:
        return merge(values_of(self._example), more)

    # -- What the cluster has --------------------------------------------------------------------------------------

    def deployments(self) -> dict[str, Object]:
        found = self.api.items(self.path("apis/apps/v1/{}/deployments"), labelSelector=OWN)
        return {one["metadata"]["labels"][COMPONENT]: one for one in found}

    def scalers(self) -> dict[str, Object]:
        found = self.api.items(self.path("apis/autoscaling/v2/{}/horizontalpodautoscalers"), labelSelector=OWN)
        return {one["metadata"]["labels"][COMPONENT]: one for one in found}

    def pods(self) -> list[Object]:
        """Returns the pods of Deployments, those not that are on their way out."""
        found = self.api.items(self.path("api/v1/{}/pods"), labelSelector=f"{OWN},pod-template-hash")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def names(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.pods()}

    def images(self) -> set[str]:
        """Returns the tags that pods run."""
        return {_tag(container) for pod in self.pods() for container in pod["spec"]["containers"]}

    def counts(self) -> dict[str, int]:
        return {name: one["spec"]["replicas"] for name, one in self.deployments().items()}

    def used_nodes(self) -> set[str]:
        return {pod["spec"]["nodeName"] for pod in self.pods()}

    def jobs(self) -> list[Object]:
        return self.api.items(self.path("apis/batch/v1/{}/jobs"), labelSelector=OWN)

    def spread(self) -> dict[str, Counter[str]]:
        """Returns how many pods of each component are in each zone."""
        zones = Nodes(self.api).zones()
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for pod in self.pods():
            found[pod["metadata"]["labels"][COMPONENT]][zones[pod["spec"]["nodeName"]]] += 1
        return found

    def left(self) -> list[str]:
        """Returns the names of everything that is ours."""
        every = (one for kind in KINDS for one in self.api.items(self.path(kind), labelSelector=OWN))
        return [one["metadata"]["name"] for one in every]

    def refused_pods(self) -> list[str]:
        """Returns what admission said of pods that it did not let in."""
        events = self.api.items(self.path("api/v1/{}/events"), fieldSelector="reason=FailedCreate")
        return [event["message"] for event in events]

    # -- What becomes of it ----------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Waits until every pod that is wanted is ready, and no other one is left."""
        wait_until(self._is_settled, LIMIT_SECONDS)

    def _is_settled(self) -> bool:
        scalers = self.scalers()
        for component, one in self.deployments().items():
            wanted, status = one["spec"]["replicas"], one.get("status", {})
            least = scalers[component]["spec"]["minReplicas"] if component in scalers else wanted
            has = {status.get(count, 0) for count in ("replicas", "updatedReplicas", "readyReplicas")}
            if status.get("observedGeneration") != one["metadata"]["generation"] or has != {wanted} or wanted < least:
                return False
        return len(self.pods()) == sum(self.counts().values())


def least_ready(events: Iterable[Object]) -> dict[str, int]:
    """Returns how many pods of each Deployment were ready at the worst moment, from the events of Deployments."""
    least: dict[str, int] = {}
    for one in (event["object"] for event in events):
        component, ready = one["metadata"]["labels"][COMPONENT], one["status"].get("readyReplicas", 0)
        least[component] = min(ready, least.get(component, ready))
    return least


def placed(events: Iterable[Object]) -> dict[str, str]:
    """Returns the nodes of all pods that were made meanwhile, those of Jobs and tests, too, from the events of pods."""
    nodes: dict[str, str] = {}
    for event in events:
        pod = event["object"]
        name = pod["metadata"]["name"]
        if event["type"] == "ADDED" or name in nodes:
            nodes[name] = pod["spec"].get("nodeName", "")
    return nodes


def _namespace(name: str, labels: Mapping[str, str]) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _tag(container: Object) -> str:
    return str(container["image"]).rpartition(":")[2]
