"""Lays Swagger UI, which shows the OpenAPI document, into `third_party/`: `python -m tools.openapi.docs_page`.

Swagger UI is an npm package, but running the mesh requires Python and PyPI alone. `drf-spectacular-sidecar` on PyPI
contains each of its releases. We take two files of that wheel, and none of its dependencies on Django.
"""

import tempfile
import zipfile
from typing import Final

from tools.contract.generate import THIRD_PARTY, download

FOLDER: Final = THIRD_PARTY / "swagger-ui"
FILES: Final = ("swagger-ui.css", "swagger-ui-bundle.js")
# Swagger UI 5.33.1.
WHEEL: Final = (
    "drf-spectacular-sidecar==2026.10.1"
    " --hash=sha256:fe1d005d8ac9b5d0472f2fe5deeb2e7d6dcffaa24118044f22578b4b8c4b31f2\n"
)


def fetch() -> None:
    """Fetches the wheel and unpacks the files of the page."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(download(WHEEL, folder, "--only-binary", ":all:")) as archive,
    ):
        for name in FILES:
            (member,) = (one for one in archive.namelist() if one.endswith(f"/swagger-ui-dist/{name}"))
            (FOLDER / name).write_bytes(archive.read(member))


if __name__ == "__main__":
    fetch()
