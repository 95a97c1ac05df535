"""Makes the client packages from the contract.

python -m tools.clients [python]
"""

import shutil
import subprocess
import sys
from typing import Final

from tools.clients import python, typescript
from tools.topology import ROOT

DIST: Final = ROOT / "dist"


def main() -> None:
    """Writes the Python client's generated modules; without an argument packs both clients, too."""
    python.generate()
    if sys.argv[1:] == ["python"]:
        return
    shutil.rmtree(DIST, ignore_errors=True)
    try:
        for wheel in python.wheels(DIST):
            print(wheel.relative_to(ROOT))
        typescript.build()
        print(typescript.package(DIST).relative_to(ROOT))
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(map(str, error.cmd))} failed; what it said is above") from None


if __name__ == "__main__":
    main()
