"""The declaration of this service for the server."""

from pathlib import Path

from ameide.ipa.v1 import ipa_pb2
from api_common.resources import Quotas
from api_common.server import Service, ServiceDependencies

from ipas_service.deployments import Deployments
from ipas_service.mapping import deployment_to_proto, ipa_to_proto
from ipas_service.operations import Composition
from ipas_service.repository import DEPLOYMENT_FIELDS, FIELDS, DeploymentRepository, IpaRepository
from ipas_service.rollout import Rollout
from ipas_service.servicer import IpaServicer
from ipas_service.tables import deployments, ipas


def _servicer(dependencies: ServiceDependencies) -> IpaServicer:
    page_tokens, watch_factory = dependencies.page_tokens, dependencies.watch_factory
    return IpaServicer(
        IpaRepository(page_tokens),
        Composition(dependencies.siblings),
        DeploymentRepository(page_tokens),
        _deployments(dependencies),
        watch=watch_factory.of(ipas, fields=FIELDS, to_proto=ipa_to_proto, response=ipa_pb2.WatchIpasResponse),
        watch_deployments=watch_factory.of(
            deployments,
            fields=DEPLOYMENT_FIELDS,
            to_proto=deployment_to_proto,
            response=ipa_pb2.WatchDeploymentsResponse,
        ),
        quotas=Quotas(("ipas", "deployments"), dependencies.settings.quota),
    )


def _deployments(dependencies: ServiceDependencies) -> Deployments:
    repository, stored = IpaRepository(dependencies.page_tokens), DeploymentRepository(dependencies.page_tokens)
    rollout, deadline = Rollout(dependencies.siblings), dependencies.settings.sagas.deadline_seconds
    return Deployments(repository, stored, dependencies.sagas, rollout, deadline_seconds=deadline)


SERVICE = Service(
    name="ipas",
    servicers={ipa_pb2.DESCRIPTOR.services_by_name["IpaService"]: _servicer},
    constraints={},
    migrations=Path(__file__).parent.parent / "migrations",
    siblings=("users", "workflows", "agents"),
    plans=lambda dependencies: _deployments(dependencies).plans,
)
