"""A released migration never changes, and nothing outside it changes what it does."""

import ast
import shutil
from pathlib import Path

import pytest

from tests.architecture import sources
from tests.architecture.test_house import imports, report
from tools.contract.migrations import FOLDERS, changed, release, released, versions

HOW_TO_REPAIR = "Restore the released text of these versions, and write a new version that makes the change:"
HOW_TO_RELEASE = "Run `make release-migrations` once these versions are final; from then on they must not change:"

of_every_service = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.parent.name)


@of_every_service
def test_a_released_version_never_changes(folder: Path) -> None:
    assert not changed(folder), report(changed(folder), HOW_TO_REPAIR)


@of_every_service
def test_every_version_is_released(folder: Path) -> None:
    new = set(versions(folder)) - set(released(folder))
    assert not new, report(sorted(new), HOW_TO_RELEASE)


def test_releasing_adds_new_versions_and_keeps_the_hash_of_those_that_changed(tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(FOLDERS[0], folder)
    first, *_ = versions(folder)
    (folder / "versions" / first).write_text("# edited\n")
    (folder / "versions" / "9999_new.py").write_text("# new\n")
    assert release(folder) == ["9999_new.py"]
    assert changed(folder) == [first]
    (folder / "versions" / "9999_new.py").unlink()
    assert changed(folder) == [first, "9999_new.py"]


@of_every_service
def test_revisions_are_consecutive_numbers_that_compare_as_texts(folder: Path) -> None:
    first, *_ = versions(folder)
    for number, path in enumerate(sorted(folder.glob("versions/*.py")), start=int(first[:4])):
        assigned = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id in {"revision", "down_revision"}
        }
        before = None if path.name == first else f"{number - 1:04}"
        assert assigned == {"revision": f"{number:04}", "down_revision": before}, path.name
        assert path.name.startswith(f"{number:04}_")


def test_a_version_imports_nothing_of_ours() -> None:
    ours = ("api_common", "ameide", "tools", *(f"{folder.parent.name}_service" for folder in FOLDERS))
    offenders = [
        place for version in sources.read("services/*/migrations/versions/*.py") for place in imports(version, *ours)
    ]
    assert not offenders, report(offenders, "Write the SQL out: what a version imports may change after its release:")
