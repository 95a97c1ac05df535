"""The alarm for newer releases of grpcio; that it measures them is for `make outdated`, which needs the network."""

from importlib.metadata import version

import pytest

from bench import outdated
from bench.outdated import cheaper
from bench.rounds import Ratio


def test_a_release_is_cheaper_only_beyond_noise() -> None:
    ratios = {"1": Ratio(0.9, 0.85, 0.99), "2": Ratio(0.9, 0.8, 1.0), "3": Ratio(1.1, 1.05, 1.2)}
    assert cheaper(ratios) == ["1"]


def test_says_so_if_the_pin_is_the_newest(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pin = version("grpcio")
    monkeypatch.setattr(outdated, "installed", lambda release, folder: (pin, folder))
    monkeypatch.setattr("sys.argv", ["outdated"])
    outdated.main()
    assert capsys.readouterr().out == f"grpcio {pin} is pinned, and no release is newer.\n"
