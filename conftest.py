"""What every test may use, and how `make test` shares them between its processes."""

import gc
import importlib
import os
import sys
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

_ROOT = Path(__file__).parent
# Node.js and npm are those of .venv, also where pytest was started without make.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
_SHARED = sorted([*_ROOT.glob("services/*/tests/plugin.py"), *_ROOT.glob("tests/**/plugin.py")])
"""Fixtures that more than one folder uses; those of one folder stand in its conftest.py."""
pytest_plugins = [
    "api_common.testing.plugin",
    *(".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in _SHARED),
]

_TOGETHER = {
    "tests/e2e/edge": "edge",
    "tests/security": "security",
    "tests/e2e": "mesh",
    "tests/tools": "mesh",
    "tests/faults": "faults",
    "tests/scaffold": "scaffold",
    "tests/api": "api",
}
"""Folders whose tests share ports, or something that takes long to start; the longest first."""
_ORDER = list(_TOGETHER.values())
_FROM_OUTSIDE = ("api", "architecture", "bench", "e2e", "faults", "helm", "lua", "queries", "scaffold", "security")
_UNMEASURED = tuple(f"tests/{name}/" for name in _FROM_OUTSIDE)
"""Folders whose coverage says little: they call from outside, every RPC in turn, or nothing of ours in this process.

Measuring makes tests take half as long again.
"""


class _GroupScheduling(LoadScopeScheduling):
    """Keeps a group of tests in one process: its folder's, else its file's."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    # `--dist loadgroup` would do it by marks, but does nothing with pytest 9.1 (pytest-xdist 3.8 writes a node's id,
    # which cannot be written any more).
    return _GroupScheduling(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with the groups that take longest: what is begun last decides when all are done.

    Comes after hypothesis, which marks its tests: they measure what the examples beside them do, for as long again.
    """
    items.sort(key=lambda item: _ORDER.index(group) if (group := _group(item.nodeid)) in _ORDER else len(_ORDER))
    for item in items:
        if item.nodeid.startswith(_UNMEASURED) or item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")


def pytest_configure(config: pytest.Config) -> None:
    """Ends what pytest-cov 7.1 begins twice in a process of pytest-xdist.

    Nothing saves the first measurement; but to pause is to pause the second, and coverage then goes on with the first.
    """
    if hasattr(config, "workerinput") and (measurement := _measurement(config)):
        measurement.pause()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Looks for no garbage while tests are collected: what is made stays, and looking took a fifth of the time.

    Nor does it measure, which doubled the time: one process imports all modules before it collects.
    """
    if measurement := _measurement(session.config):
        if not hasattr(session.config, "workerinput"):
            _import_all()
        measurement.pause()
    gc.disable()
    try:
        return (yield)
    finally:
        if measurement:
            measurement.resume()
        gc.enable()


def pytest_collection_finish() -> None:
    """Leaves the tests themselves out of every later collection of garbage: with them one takes a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collects no garbage while a report is made.

    pytest parses the source to show a failure; a finalizer that prints a traceback meanwhile parses, too, and CPython
    3.11.7 then raises a SystemError (gh-106905) that ends the whole run without naming the test that failed.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def _measurement(config: pytest.Config) -> Any:
    """Returns what pytest-cov measures this process with, or None."""
    return getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)


def _import_all() -> None:
    packages = ("libs/api_common/api_common", "clients/python/ameide_client", "tools", "services/*/*_service")
    for package in (found for pattern in packages for found in _ROOT.glob(pattern)):
        for file in sorted(package.rglob("*.py")):
            if file.name != "__main__.py":
                name = ".".join(file.relative_to(package.parent).with_suffix("").parts)
                importlib.import_module(name.removesuffix(".__init__"))


def _group(nodeid: str) -> str:
    file = PurePosixPath(nodeid.partition("::")[0])
    return next((_TOGETHER[str(folder)] for folder in file.parents if str(folder) in _TOGETHER), str(file))
