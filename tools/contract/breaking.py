"""Compares the protos of the working tree with those of the main branch, or of `AGAINST` (`buf breaking`)."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

from tools.topology import ROOT

REFERENCES = os.environ.get("AGAINST", "origin/main main").split()
BUF = Path(sys.executable).with_name("buf")


def main() -> int:
    """Returns buf's exit code, or 0 after a message if there is nothing to compare with."""
    for reference in REFERENCES:
        command = ["git", "archive", "--format=zip", reference, "proto", "buf.yaml"]
        archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        if archive.returncode == 0:
            return _compare(reference, archive.stdout)
    print(f"No proto/ on {' or '.join(REFERENCES)} in this checkout: nothing to compare the contract with.")
    return 0


def _compare(reference: str, archive: bytes) -> int:
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(BytesIO(archive)) as packed:
            packed.extractall(folder)
        # Both sides import the same third-party protos, which are not compared.
        shutil.copytree(ROOT / "third_party", Path(folder) / "third_party")
        result = subprocess.run([BUF, "breaking", "--against", folder], cwd=ROOT, check=False)
    if result.returncode == 0:
        print(f"No breaking change of the contract against {reference}.")
    return result.returncode


if __name__ == "__main__":
    raise SystemExit(main())
