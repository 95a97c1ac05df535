"""`make check-cluster`: the chart on a real Kubernetes with fake nodes in three zones, from the first day to the last.

It needs Go, and builds the control plane once into `.cache/cluster`. What runs is Kubernetes' API server with its
admission, its controllers and its scheduler, and Helm; kwok says of every pod what a kubelet would. So nothing here
shows whether a NetworkPolicy is enforced, what an autoscaler makes of metrics, or whether an image starts.
"""

import shutil
import signal
from types import FrameType
from typing import Final

from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tests.cluster import second_day
from tests.cluster.build import modules, parts
from tests.cluster.control_plane import control_plane
from tests.cluster.nodes import Nodes
from tests.cluster.platform import may_be_root, prepare
from tests.cluster.release import LIMIT_SECONDS, Release
from tests.helm.release import ENVIRONMENTS
from tools.topology import ROOT

STATE: Final = ROOT / ".local" / "check-cluster"


def main() -> None:
    signal.signal(signal.SIGTERM, _stop)
    made = parts()
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True)
    (version,) = (module.version for module in modules() if "kube-apiserver" in module.programs)
    table = Table(f"The chart on Kubernetes {version}")
    with control_plane(made, STATE) as cluster:
        nodes = Nodes(cluster.api)
        with table.line("nodes", "six are ready, in three zones") as seen:
            prepare(cluster.api, nodes, made.kinds)
            seen.append(", ".join(sorted(nodes.zones())))
        for name in ENVIRONMENTS:
            release = Release(cluster, name)
            first_day(table, name, release)
            if name == "production":
                second_day.play(table, release, nodes)
            with table.line(f"{name}: helm uninstall", "nothing of it is left"):
                release.uninstall()
                wait_until(lambda of=release: not of.left(), LIMIT_SECONDS)  # type: ignore[misc]
    table.finish()


def first_day(table: Table, name: str, release: Release) -> None:
    """Installs a set of values and asks it."""
    with table.line(f"{name}: a pod that may be root", "refused") as seen:
        answer = release.api.create(release.path("api/v1/{}/pods"), may_be_root())
        assert answer.status_code == 403, answer.text
        seen.append(answer.json()["message"].partition(":")[0])
    with table.line(f"{name}: helm install --wait", "every pod ready, none refused, no warning") as seen:
        release.install()
        assert not release.refused_pods(), release.refused_pods()
        seen.append(f"{sum(release.counts().values())} pods of {len(release.counts())} Deployments")
    with table.line(f"{name}: helm test", "its pod succeeds"):
        release.test()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
