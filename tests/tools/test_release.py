"""A release has one version, wherever it is written, a tag, and a section of the changelog."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tools.topology import ROOT

PROJECTS = sorted((*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")))


def versions(root: Path) -> Iterator[str]:
    """Yields each version that is written down."""
    yield (root / "VERSION").read_text().strip()
    chart = yaml.safe_load((root / "helm/ameide/Chart.yaml").read_text())
    yield from (chart["version"], chart["appVersion"])
    yield yaml.safe_load((root / "helm/ameide/examples/production.yaml").read_text())["image"]["tag"]
    for path in (*PROJECTS, ROOT / "clients/python/pyproject.toml"):
        project = tomllib.loads((root / path.relative_to(ROOT)).read_text())["project"]
        yield project["version"]
        yield from re.findall(r"ameide-protos==(\S+)", " ".join(project.get("dependencies", ())))
    yield json.loads((root / "clients/typescript/package.json").read_text())["version"]
    yield from re.findall(
        r"ameide-client-python/([\d.]+)", (root / "clients/python/ameide_client/connection.py").read_text()
    )
    template = next((root / "tools/scaffold/template/services").rglob("pyproject.toml.jinja"))
    yield from re.findall(r'^version = "(.+)"$', template.read_text(), re.MULTILINE)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the files that a release changes."""
    names = ("libs", "services", "clients", "helm", "tools/release.sh", "tools/scaffold", "VERSION", "CHANGELOG.md")
    for name in git(ROOT, "ls-files", "--", *names).splitlines():
        if name.endswith((".toml", ".jinja", ".json", ".yaml", ".sh", "connection.py", "VERSION", ".md")):
            target = tmp_path / name.strip('"')
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name.strip('"'), target)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "config", "user.name", "Ada")
    git(tmp_path, "config", "user.email", "ada@example.com")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "Before")
    return tmp_path


def release(checkout: Path, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["tools/release.sh", version], cwd=checkout, capture_output=True, text=True, check=False)


def test_the_version_is_the_same_everywhere() -> None:
    found = list(versions(ROOT))
    assert len(found) > 12
    assert set(found) == {(ROOT / "VERSION").read_text().strip()}


def test_a_release_writes_commits_and_tags_it(checkout: Path) -> None:
    assert release(checkout, "9.10.11").returncode == 0
    assert set(versions(checkout)) == {"9.10.11"}
    assert git(checkout, "describe", "--exact-match").strip() == "v9.10.11"
    assert git(checkout, "status", "--porcelain") == ""
    changes = (checkout / "CHANGELOG.md").read_text()
    assert re.search(r"^## Unreleased\n\n## 9\.10\.11 \(\d{4}-\d\d-\d\d\)\n\n- ", changes, re.MULTILINE)


@pytest.mark.parametrize(
    ("version", "said"), [("", "Name the release"), ("v1", "Name the release"), ("0.3.0", "exists")]
)
def test_a_release_without_a_new_version_is_refused(checkout: Path, version: str, said: str) -> None:
    git(checkout, "tag", "v0.3.0")
    answer = release(checkout, version)
    assert (answer.returncode, said in answer.stderr) == (1, True)


def test_a_release_of_what_is_not_committed_is_refused(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("")
    assert "not committed" in release(checkout, "9.9.9").stderr


def test_images_say_which_release_they_are() -> None:
    """As far as it shows without building: both stand on the stage with the labels, and `make images` names it."""
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    (labelled,) = (stage for stage in stages if 'org.opencontainers.image.version="${VERSION}"' in stage)
    base = labelled.split()[2]
    assert {stage.split()[2] for stage in stages if stage.startswith(f"{base} AS ")} == {"edge", "service"}
    run = ["make", "--dry-run", "images", "TAG=9.9.9", "BUILDER=docker", "IMAGES=users"]
    said = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--build-arg VERSION=9.9.9" in said


def test_images_name_the_version_of_python_once() -> None:
    """As far as it shows without building: paths take whatever the base has."""
    assert len(re.findall(r"\b3\.\d+", (ROOT / "Dockerfile").read_text())) == 1
