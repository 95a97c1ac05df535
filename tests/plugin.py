"""Fixtures that tests of several folders share."""

from pathlib import Path

import pytest

from tools.secrets.certificates import ensure


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the certificates of all processes."""
    folder = tmp_path_factory.mktemp("certificates")
    ensure(folder)
    return folder
