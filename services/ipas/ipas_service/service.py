"""What the server needs to know of this service."""

from pathlib import Path

from ameide.ipa.v1 import ipa_pb2
from api_common.server import Parts, Service

from ipas_service.operations import Composition
from ipas_service.repository import IpaRepository
from ipas_service.servicer import IpaServicer


def _servicer(parts: Parts) -> IpaServicer:
    return IpaServicer(IpaRepository(parts.page_tokens), Composition(parts.siblings))


SERVICE = Service(
    name="ipas",
    servicers={ipa_pb2.DESCRIPTOR.services_by_name["IpaService"]: _servicer},
    constraints={},
    migrations=Path(__file__).parent.parent / "migrations",
    siblings=("users", "workflows", "agents"),
)
