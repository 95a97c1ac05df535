"""What the server needs to know of this service."""

from collections.abc import Sequence
from pathlib import Path

from ameide.ipa.v1 import ipa_pb2
from api_common.sagas import Plan
from api_common.server import Parts, Service

from ipas_service.deployments import Deployments
from ipas_service.operations import Composition
from ipas_service.repository import DeploymentRepository, IpaRepository
from ipas_service.rollout import Rollout
from ipas_service.servicer import IpaServicer


def _servicer(parts: Parts) -> IpaServicer:
    ipas, stored = IpaRepository(parts.page_tokens), DeploymentRepository(parts.page_tokens)
    return IpaServicer(ipas, Composition(parts.siblings), stored, _deployments(parts))


def _plans(parts: Parts) -> Sequence[Plan]:
    return _deployments(parts).plans


def _deployments(parts: Parts) -> Deployments:
    ipas, stored = IpaRepository(parts.page_tokens), DeploymentRepository(parts.page_tokens)
    return Deployments(ipas, stored, parts.sagas, Rollout(parts.siblings))


SERVICE = Service(
    name="ipas",
    servicers={ipa_pb2.DESCRIPTOR.services_by_name["IpaService"]: _servicer},
    constraints={},
    migrations=Path(__file__).parent.parent / "migrations",
    siblings=("users", "workflows", "agents"),
    plans=_plans,
)
