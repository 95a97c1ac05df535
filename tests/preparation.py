"""Makes beforehand what tests would make on first use: `make test` runs it beside mypy, which keeps one core busy.

These are packages from npm, the TypeScript client, and the compiled test modules, which otherwise each process of
pytest-xdist compiles for itself. What fails here is tried again, and reported, by the first test that needs it.
"""

import subprocess
import sys

from tests.e2e.browser import SOURCE, find_chromium
from tests.node_packages import installed
from tests.protos import ROOT
from tools.clients import typescript


def main() -> None:
    # Collecting is what compiles: pytest rewrites the asserts of test modules.
    subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider"], check=False)
    typescript.build()
    for lock in (ROOT / "clients/console/package-lock.json", *sorted(ROOT.glob("tests/**/package-lock.json"))):
        if lock.parent != SOURCE:
            installed(lock.parent)
    find_chromium()


if __name__ == "__main__":
    main()
