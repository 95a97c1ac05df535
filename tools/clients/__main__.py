"""Makes the client packages from the contract.

python -m tools.clients [python]
"""

import subprocess
import sys

from tools.clients import contract, packages, python, typescript


def main() -> None:
    """Writes the Python client's generated modules; without an argument builds both packages, too."""
    found = contract.read()
    python.generate(found)
    if sys.argv[1:] == ["python"]:
        return
    try:
        typescript.build(found)
        for path in packages.pack():
            print(path)
    except typescript.MissingProgramError as error:
        raise SystemExit(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(map(str, error.cmd))} failed; what it said is above") from None


if __name__ == "__main__":
    main()
