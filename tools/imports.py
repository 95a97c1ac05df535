"""Checks the import contracts of `pyproject.toml`, where "*_service" stands for the package of every service."""

import sys
import tempfile

from importlinter.cli import lint_imports

from tools.topology import ROOT, SERVICES


def main() -> None:
    packages = [service.module for service in SERVICES]
    contracts = (ROOT / "pyproject.toml").read_text()
    # In the first of the layers no service knows another.
    contracts = contracts.replace('layers = ["*_service"', f'layers = ["{" | ".join(packages)}"')
    contracts = contracts.replace('"*_service"', ", ".join(f'"{package}"' for package in packages))
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(contracts)
        config.flush()
        sys.exit(lint_imports(config.name, no_logo=True))


if __name__ == "__main__":
    main()
