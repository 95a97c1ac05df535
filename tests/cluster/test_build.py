"""What `make check-cluster` is made of: what is there is not made again, and without Go it says what is missing."""

from pathlib import Path

import pytest

from tests.cluster import build


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, on a machine without Go."""
    monkeypatch.setattr(build, "CACHE", tmp_path)
    monkeypatch.setattr(build, "SOURCES", tmp_path / "go")
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


class TestParts:
    def test_without_go_say_what_is_missing_and_where_to_get_it(self, cache: Path) -> None:
        with pytest.raises(SystemExit, match=r"needs Go .*https://go\.dev/doc/install.*kube-apiserver.*etcd.*kwok"):
            build.parts()

    def test_that_are_there_are_not_made_again(self, cache: Path) -> None:
        for module in build.modules():
            module.folder.mkdir()
            for path in module.missing:
                path.touch()
        made = build.parts()
        assert all(path.exists() for path in (*made.programs.values(), *made.kinds))
        assert {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"} == set(made.programs)

    def test_of_another_version_are_made(self, cache: Path) -> None:
        first, *_ = build.modules()
        other = build.Module(first.path, "v1.0.0", first.programs, first.kinds)
        assert not {path.parent for path in first.missing} & {path.parent for path in other.missing}
