"""The chart, rendered by real Helm (its Go library, from PyPI) as `helm install` would."""

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import helm_python
import yaml
from api_common.server import Service

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "ameide"
NAMESPACE: Final = "mesh"
ENVIRONMENTS: Final[Mapping[str, Sequence[str]]] = {
    "defaults": (),
    "development": ("development",),
    "production": ("production",),
    "large": ("production", "large"),
}
"""The files of examples/ that are given to Helm, in this order."""

Object = dict[str, Any]


class Release:
    """Everything that one set of values makes."""

    def __init__(self, values: Mapping[str, Any], *, of: helm_python.Chart | None = None) -> None:
        chosen = of or chart()
        rendered = chosen.render(dict(values), name="demo", namespace=NAMESPACE, is_install=True)
        manifests = [text for path, text in rendered.items() if not path.endswith("NOTES.txt")]
        self.notes = next(text for path, text in rendered.items() if path.endswith("NOTES.txt"))
        self.values = chosen.merge_values(dict(values))
        documents = (found for text in manifests for found in yaml.load_all(text, yaml.CSafeLoader))
        self.objects: list[Object] = [found for found in documents if found]

    def of_kind(self, kind: str) -> dict[str, Object]:
        """Returns objects by the component that they belong to."""
        chosen = [one for one in self.objects if one["kind"] == kind]
        return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in chosen}

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Yields the pod, or its template, of everything that runs."""
        for kind in ("Deployment", "Job", "Pod"):
            for component, one in self.of_kind(kind).items():
                yield component, one if kind == "Pod" else one["spec"]["template"]


@cache
def chart() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


def service(name: str) -> Service:
    """Returns what the service of this name says of itself."""
    found: Service = import_module(f"{name}_service.service").SERVICE
    return found


def values_of(environment: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in ENVIRONMENTS[environment]:
        merge(values, yaml.safe_load((CHART / "examples" / f"{name}.yaml").read_text()))
    return values


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Lays one values file over another, as Helm does."""
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            merge(into[name], value)
        else:
            into[name] = value
    return into


async def startup_probe(admin: str, release: Release) -> int | None:
    """Runs the edge's startup probe against an admin page; returns its exit code."""
    (container,) = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]["containers"]
    *_, script = container["startupProbe"]["exec"]["command"]
    asked = script.replace("http://127.0.0.1:9901", admin)
    assert asked != script
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", asked, stderr=asyncio.subprocess.DEVNULL)
    return await process.wait()
