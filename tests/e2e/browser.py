"""The browser of the tests: Debian's Chromium where it is installed, else the one that npm has."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, sync_playwright

from tests.node_packages import installed

SOURCE: Final = Path(__file__).parent / "chromium"
UNPACK: Final = "import('@sparticuz/chromium').then(({ default: chromium }) => chromium.executablePath())"
FONTS: Final = "<fontconfig><dir>{0}/fonts</dir><cachedir>{0}/fonts/cache</cachedir></fontconfig>"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    program, environment = find_chromium()
    # The Node.js that playwright brings needs a library (libatomic) that a bare Debian does not have.
    os.environ["PLAYWRIGHT_NODEJS_PATH"] = str(shutil.which("node"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, env={**os.environ, **environment}, args=["--disable-quic"]
        )
        yield browser
        browser.close()


def find_chromium() -> tuple[str, dict[str, str]]:
    """Returns the program and the environment that it needs; gets it from npm if it is not here."""
    if (program := shutil.which("chromium")) is not None:
        return program, {}
    packages = installed(SOURCE)
    # `npm ci` deletes the folder of packages, so that a newer version is unpacked, too.
    folder = packages / "node_modules" / ".unpacked"
    with (packages / "unpacked.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _unpack(packages, folder)
    libraries = {"LD_LIBRARY_PATH": f"{folder}/al2023/lib", "FONTCONFIG_FILE": f"{folder}/fonts.conf"}
    return str(folder / "chromium"), libraries


def _unpack(packages: Path, folder: Path) -> None:
    """Lets the package write its browser, libraries and fonts into ``folder``."""
    with tempfile.TemporaryDirectory(dir=packages) as temporary:
        made = Path(temporary, "made")
        made.mkdir()
        # It unpacks its libraries only where it believes to be on AWS Lambda.
        environment = {**os.environ, "TMPDIR": str(made), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs24.x"}
        subprocess.run(["node", "--eval", UNPACK], cwd=packages, env=environment, check=True)
        (made / "fonts.conf").write_text(FONTS.format(folder))
        made.rename(folder)
