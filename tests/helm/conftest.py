"""Fixtures: what the chart makes of its examples."""

import pytest

from tests.helm.release import ENVIRONMENTS, Release, values_of


@pytest.fixture(scope="session", params=ENVIRONMENTS)
def release(request: pytest.FixtureRequest) -> Release:
    """The chart with each of the examples."""
    return Release(values_of(request.param))


@pytest.fixture(scope="session")
def production() -> Release:
    return Release(values_of("production"))
