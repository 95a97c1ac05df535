"""What every test may use, and how `make test` shares them between two processes."""

import pytest

pytest_plugins = ["api_common.testing.plugin"]

_TOGETHER = {
    "tests/e2e/edge": "edge",
    "tests/security": "security",
    "tests/e2e": "mesh",
    "tests/tools": "mesh",
    "tests/api": "api",
}
"""Folders whose tests share ports, or something that takes long to start; the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each test the group that stays in one process: its folder's, else its file's. Long groups begin first."""
    order = list(_TOGETHER.values())
    groups = {item: _group(config, item) for item in items}
    items.sort(key=lambda item: order.index(groups[item]) if groups[item] in order else len(order))
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))


def _group(config: pytest.Config, item: pytest.Item) -> str:
    path = item.path.relative_to(config.rootpath)
    return next((_TOGETHER[str(one)] for one in path.parents if str(one) in _TOGETHER), path.as_posix())
