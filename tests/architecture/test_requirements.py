"""What an image installs is what its service imports: nobody sees the difference before it starts."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from typing import Final

from tests.architecture import sources
from tests.protos import ROOT

# Generated code, and packages of the house, are copied into the image.
_OURS: Final = re.compile(r"api_common|ameide|buf|\w+_service")
# The image is built without it, as is `api_common.testing`.
_TESTS_ONLY: Final = "libs/api_common/api_common/testing/"


def imported() -> Iterator[tuple[str, str]]:
    """Yields where a module is imported, and its name."""
    migrations = sources.read("services/*/migrations/**/*.py")
    served = [source for source in sources.product() if not source.path.startswith(_TESTS_ONLY)]
    for source, node in sources.nodes((*served, *migrations)):
        if isinstance(node, ast.Import):
            yield from ((source.at(node), name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield source.at(node), node.module


def test_services_import_what_their_images_install() -> None:
    lock = (ROOT / "requirements-services.lock").read_text()
    installed = set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE))
    distributions = packages_distributions()
    missing = []
    for place, module in imported():
        first = module.partition(".")[0]
        if first in sys.stdlib_module_names or _OURS.fullmatch(first):
            continue
        names = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions[first]}
        if not names & installed:
            missing.append(f"{place} {module}")
    assert not missing, "add these to requirements-services.in, then `make lock`"
