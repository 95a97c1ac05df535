"""`make breaking` refuses what would break a client, and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tools.contract import breaking
from tools.topology import ROOT

USER = "proto/ameide/user/v1/user.proto"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose main branch has our contract."""
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    unstable = tmp_path / "proto" / "ameide" / "user" / "v1alpha" / "trial.proto"
    unstable.parent.mkdir()
    unstable.write_text('syntax = "proto3";\npackage ameide.user.v1alpha;\nmessage Trial {}\n')
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "--quiet", "-m", "Contract")
    shutil.copytree(ROOT / "third_party", tmp_path / "third_party")
    monkeypatch.setattr(breaking, "ROOT", tmp_path)
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def edit(checkout: Path, old: str, new: str) -> None:
    path = checkout / USER
    text = path.read_text()
    assert old in text, f"{old} is not in {USER}; choose another change"
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("string email = 30 [", "string email = 99 [", "email"),
        ("string email = 30 [", "string mail = 30 [", "mail"),
        ("rpc GetMe(", "rpc GetMyself(", "GetMe"),
    ],
    ids=["number", "name", "method"],
)
def test_a_break_is_refused_and_named(
    checkout: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    edit(checkout, old, new)
    assert breaking.main() != 0
    assert said in capfd.readouterr().out


def test_an_addition_passes_and_so_does_what_is_unstable(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    edit(checkout, "    SUSPENDED = 2;", "    SUSPENDED = 2;\n    // Gone for a while.\n    AWAY = 99;")
    edit(checkout, "string email = 30 [", "string pronoun = 99;\n  string email = 30 [")
    edit(checkout, "rpc GetMe(", "rpc GetNew(GetMeRequest) returns (User);\n  rpc GetMe(")
    unstable = checkout / "proto" / "ameide" / "user" / "v1alpha" / "trial.proto"
    unstable.unlink()
    assert breaking.main() == 0
    assert capfd.readouterr().out == "No breaking change of the contract against main.\n"


def test_a_release_is_compared_with_by_its_tag(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also when the main branch has left its contract behind."""
    git(checkout, "tag", "v0.1.0")
    edit(checkout, "rpc GetMe(", "rpc GetMyself(")
    git(checkout, "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "--quiet", "-am", "Break it")
    assert breaking.main() == 0
    monkeypatch.setattr(breaking, "REFERENCES", ["v0.1.0"])
    assert breaking.main() != 0
    assert "GetMe" in "".join(capfd.readouterr())
