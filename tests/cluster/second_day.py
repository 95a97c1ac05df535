"""What a platform team does to a release that runs: upgrades, outages of zones, failed migrations, autoscaling."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from tests.checks.table import Table
from tests.checks.waiting import wait_until
from tests.cluster.nodes import Nodes
from tests.cluster.release import LIMIT_SECONDS, Release, least_ready, placed

DEPLOYMENTS: Final = "apis/apps/v1/{}/deployments"
PODS: Final = "api/v1/{}/pods"
DEDICATED: Final = {"key": "dedicated", "value": "api", "effect": "NoSchedule"}
MAINTENANCE: Final = {"key": "maintenance", "effect": "NoExecute"}


def play(table: Table, release: Release, nodes: Nodes) -> None:
    """Plays everything on a release of the example for production, at its revision 1."""
    upgrades(table, release)
    outages(table, release, nodes)
    failures(table, release)
    placement(table, release, nodes)
    autoscaling(table, release)


def upgrades(table: Table, release: Release) -> None:
    with table.line("helm upgrade", "new pods in three zones; never fewer ready; the autoscaler's count stays") as seen:
        scale(release, "users", 6)
        with no_fewer(release, seen):
            release.upgrade(image={"tag": "two"})
        assert release.images() == {"two"}, release.images()
        assert release.counts()["users"] == 6, release.counts()
        seen.append(even(release, zones=3))
    with table.line("helm rollback", "the pods of before in three zones; never fewer ready") as seen:
        with no_fewer(release, seen):
            release.roll_back(1)
        assert release.images() == {"0.1.0"}, release.images()
        assert release.counts()["users"] == 6, release.counts()
        seen.append(even(release, zones=3))


def outages(table: Table, release: Release, nodes: Nodes) -> None:
    closed = nodes.of("zone-a")
    with table.line("a zone is drained", "every pod ready in two zones; one at most is missing meanwhile") as seen:
        with no_fewer(release, seen, but=1):
            for name in closed:
                nodes.drain(name)
            release.wait()
        seen.append(even(release, zones=2))
    with table.line("helm upgrade without that zone", "every pod ready in two zones; never fewer ready") as seen:
        with no_fewer(release, seen):
            release.upgrade(image={"tag": "three"})
        seen.append(even(release, zones=2))
    with table.line("helm upgrade when the zone is back", "even in three zones") as seen:
        for name in closed:
            nodes.cordon(name, closed=False)
        release.upgrade(image={"tag": "four"})
        seen.append(even(release, zones=3))
    with table.line("a node is taken away (NoExecute)", "every pod ready elsewhere") as seen:
        lost, *_ = nodes.of("zone-b")
        nodes.taint(lost, MAINTENANCE)
        wait_until(lambda: lost not in release.used_nodes(), LIMIT_SECONDS)
        release.wait()
        seen.append(even(release, zones=3))
        nodes.taint(lost)


def failures(table: Table, release: Release) -> None:
    with table.line("a migration fails", "Helm says so, no pod is replaced, the Job stays to be read") as seen:
        before = release.names()
        said = release.is_refused(image={"tag": "broken"})
        assert "pre-upgrade hooks failed" in said, said
        assert release.names() == before, "pods were replaced"
        failed = [job["metadata"]["name"] for job in release.jobs() if job["status"].get("failed")]
        assert failed, "no Job is left"
        seen.append(f"{', '.join(failed)} failed; {len(before)} pods go on")
    with table.line("the next release after that", "every pod ready; never fewer ready") as seen:
        with no_fewer(release, seen):
            release.upgrade(image={"tag": "five"})
        assert not release.jobs(), release.jobs()
    with table.line("helm test of an edge that does not answer", "Helm says so") as seen:
        release.upgrade(image={"tag": "broken"}, migration={"enabled": False})
        said = release.fails_its_test()
        release.upgrade(image={"tag": "five"})
        seen.append(said[:100])


def placement(table: Table, release: Release, nodes: Nodes) -> None:
    every = list(nodes.zones())
    pool = [name for name in every if name.endswith("-1")]
    for name in every:
        nodes.taint(name, DEDICATED)
    for name in pool:
        nodes.label(name, pool="api")
    with table.line("no node may be used", "the migration ends at its deadline, no pod is replaced") as seen:
        before = release.names()
        said = release.is_refused(image={"tag": "six"}, migration={"deadlineSeconds": 30})
        assert "pre-upgrade hooks failed" in said, said
        assert release.names() == before, "pods were replaced"
        seen.append(said[:100])
    chosen = {"nodeSelector": {"pool": "api"}, "tolerations": [{"key": "dedicated", "operator": "Exists"}]}
    with table.line("tolerations, nodeSelector", "pods, migrations and test on the pool; never fewer ready") as seen:
        with release.api.watching(release.path(PODS)) as events, no_fewer(release, seen):
            release.upgrade(image={"tag": "six"}, defaults=chosen, edge=chosen)
            release.test()
        used = placed(events)
        wrong = {pod: node for pod, node in used.items() if node not in pool}
        assert not wrong, wrong
        of_jobs = sum("-migration-" in pod for pod in used)
        assert of_jobs == len(release.counts()) - 1, used
        seen.append(f"{len(used)} pods, {of_jobs} of them migrations")
        seen.append(even(release, zones=3))
    for name in every:
        nodes.taint(name)
        nodes.label(name, pool=None)
    release.upgrade(image={"tag": "six"})


def autoscaling(table: Table, release: Release) -> None:
    without = {"autoscaling": {"enabled": False}, "replicas": 5}
    named = ", ".join(f"{name} 5" for name in sorted(release.counts()))
    with table.line("autoscaling is turned off", named) as seen:
        release.upgrade(image={"tag": "six"}, defaults=without, edge=without)
        assert not release.scalers(), release.scalers()
        seen.append(counted(release))
        assert seen[0] == named
    with table.line("autoscaling is turned on", f"{named}; never fewer ready") as seen:
        with no_fewer(release, seen):
            release.upgrade(image={"tag": "six"})
        assert set(release.scalers()) == set(release.counts())
        seen.append(counted(release))
        assert counted(release) == named
    with table.line("helm upgrade after it scaled", "users 7 goes on; never fewer ready") as seen:
        scale(release, "users", 7)
        with no_fewer(release, seen):
            release.upgrade(image={"tag": "seven"})
        assert release.counts()["users"] == 7
        seen.append(counted(release))


# -- What is looked at -----------------------------------------------------------------------------------------------


def scale(release: Release, component: str, count: int) -> None:
    """Sets a count as an autoscaler does."""
    (name,) = (one["metadata"]["name"] for key, one in release.deployments().items() if key == component)
    release.api.change(f"{release.path(DEPLOYMENTS)}/{name}/scale", {"spec": {"replicas": count}})
    release.wait()


@contextmanager
def no_fewer(release: Release, seen: list[str], *, but: int = 0) -> Iterator[None]:
    """Looks that no component has fewer ready pods meanwhile than before, but for ``but`` of them."""
    before = release.counts()
    with release.api.watching(release.path(DEPLOYMENTS)) as events:
        yield
    least = least_ready(events)
    fewer = {name: f"{count} of {before[name]}" for name, count in least.items() if count < before[name] - but}
    assert not fewer, f"ready were {fewer}"
    seen.append(f"{max([0, *(before[name] - count for name, count in least.items())])} missing at most")


def even(release: Release, *, zones: int) -> str:
    """Looks that pods of a component differ by one at most between so many zones; returns how many are where."""
    spread = release.spread()
    for component, count in spread.items():
        assert len(count) == zones, f"{component}: {dict(count)}"
        assert max(count.values()) - min(count.values()) <= 1, f"{component}: {dict(count)}"
    return told(sum(spread.values(), Counter()))


def counted(release: Release) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(release.counts().items()))


def told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
