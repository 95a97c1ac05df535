"""Lists the released migrations of each service, so that a change of one is noticed (`make release-migrations`).

`services/<name>/migrations/released.txt` has the format of `sha256sum`, which can check it, too.
"""

from hashlib import sha256
from pathlib import Path

from tools.topology import ROOT

FOLDERS = sorted(ROOT.glob("services/*/migrations"))


def released(folder: Path) -> dict[str, str]:
    """Returns the hash of each released version in ``folder``, by the name of its file."""
    path = folder / "released.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return {name: digest for digest, name in (line.split() for line in lines)}


def versions(folder: Path) -> dict[str, str]:
    """Returns the hash of each file of a version in ``folder``, by its name, in the order of the versions."""
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("versions/[0-9]*.*"))}


def changed(folder: Path) -> list[str]:
    """Returns the released versions in ``folder`` that are no longer what they were."""
    found = versions(folder)
    return [name for name, digest in released(folder).items() if found.get(name) != digest]


def release(folder: Path) -> list[str]:
    """Adds the versions of ``folder`` that are not listed yet to its list, and returns their names.

    A version that was listed keeps its hash.
    """
    listed = released(folder)
    new = {name: digest for name, digest in versions(folder).items() if name not in listed}
    (folder / "released.txt").write_text("".join(f"{digest}  {name}\n" for name, digest in {**listed, **new}.items()))
    return list(new)


if __name__ == "__main__":
    for one in FOLDERS:
        for added in release(one):
            print(f"{one.parent.name}: {added} is released; it must not change any more")
