"""The services of the mesh as the tests find them: every folder below `services/` that has a `service.py`."""

import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from api_common.server import Service
from google.protobuf.descriptor import ServiceDescriptor
from sqlalchemy import MetaData

from tests.protos import ROOT


@dataclass(frozen=True, slots=True)
class Built:
    """A service that somebody wrote."""

    folder: Path
    """`services/users`."""
    package: str
    """`users_service`."""

    @property
    def service(self) -> Service:
        """What the server runs."""
        found: Service = self.module("service").SERVICE
        return found

    @property
    def metadata(self) -> MetaData:
        """Its tables."""
        found: MetaData = self.module("tables").METADATA
        return found

    def module(self, name: str) -> ModuleType:
        """Imports one of its modules."""
        return importlib.import_module(f"{self.package}.{name}")

    def __str__(self) -> str:
        return self.folder.name


@cache
def built_services() -> tuple[Built, ...]:
    """Every service."""
    found = sorted((ROOT / "services").glob("*/*_service/service.py"))
    return tuple(Built(path.parent.parent, path.parent.name) for path in found)


def owner_of(contract: ServiceDescriptor) -> Built | None:
    """Returns the service that implements ``contract``."""
    names = {one.full_name: built for built in built_services() for one in built.service.descriptors}
    return names.get(contract.full_name)
