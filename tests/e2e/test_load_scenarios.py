"""The k6 scenarios of `make load` are ready to run: every script is valid, and what they call works."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.scenarios import FOLDER, ORDER, run, target
from tools.topology import Mesh, MeshError


@pytest.mark.parametrize("scenario", ORDER)
def test_a_scenario_is_valid_and_holds_calls_to_objectives(scenario: str) -> None:
    command = [str(Path(sys.executable).with_name("k6")), "inspect", str(FOLDER / f"{scenario}.js")]
    inspected = subprocess.run(command, capture_output=True, text=True, check=False)
    assert inspected.returncode == 0, inspected.stderr
    thresholds = json.loads(inspected.stdout)["thresholds"]
    assert thresholds["checks"] == ["rate>0.999"]
    assert any("rate<0.001" in own for name, own in thresholds.items() if name.startswith("http_req_failed"))


def test_every_script_is_a_scenario() -> None:
    assert {path.stem for path in FOLDER.glob("*.js")} == {*ORDER, "mesh"}


def test_the_calls_of_the_scenarios_work(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMEIDE_LOCAL_DIR", str(mesh.folder))
    monkeypatch.setenv("URL", "")
    assert run("smoke", target())


def test_a_mesh_that_does_not_answer_fails() -> None:
    assert not run("smoke", {"URL": "http://127.0.0.1:9", "TOKENS": "none"})


def test_without_a_mesh_or_tokens_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMEIDE_LOCAL_DIR", str(tmp_path))
    monkeypatch.setenv("URL", "")
    with pytest.raises(MeshError, match="make up DETACH=1"):
        target()
    monkeypatch.setenv("URL", "https://api.example.com")
    with pytest.raises(MeshError, match="one a tenant"):
        target()
