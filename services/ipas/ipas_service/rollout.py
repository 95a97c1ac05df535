"""Reserves and releases the workflow and the agents of a deployment in the sibling services (ADR 27)."""

from collections.abc import Mapping
from typing import Any

from ameide.agent.v1 import reservation_pb2 as agents_pb
from ameide.common.v1 import reservation_pb2
from ameide.workflow.v1 import reservation_pb2 as workflows_pb
from api_common.errors import FailedPreconditionError, NotFoundError
from api_common.sagas import Effect
from api_common.siblings import Siblings

from ipas_service.domain import validate_deployable
from ipas_service.errors import AgentNotFoundError, WorkflowNotFoundError


class Rollout:
    """The steps of a deployment's sagas, whose data are the ids of IPA and deployment and the deployment's parts."""

    def __init__(self, siblings: Siblings) -> None:
        self._workflows = siblings.open("workflows", workflows_pb.DESCRIPTOR.services_by_name["ReservationService"])
        self._agents = siblings.open("agents", agents_pb.DESCRIPTOR.services_by_name["ReservationService"])

    async def reserve_workflow(self, effect: Effect) -> Mapping[str, Any]:
        """Pins the revision, and checks that the bindings fit it.

        Raises:
            WorkflowNotFoundError: the tenant has no such live workflow with such a revision.
            FailedPreconditionError: it is not published.
            InvalidBindingsError: an AGENT node has no agent, or a binding names no AGENT node.
            DomainError: the workflows service does not answer.
        """
        data = effect.saga.data
        request = workflows_pb.ReserveWorkflowRequest(
            holder=_holder(effect), workflow_id=data["workflow_id"], revision=data["workflow_revision"]
        )
        try:
            pinned = await self._workflows.call(
                request, workflows_pb.ReserveWorkflowResponse, effect.context, idempotency_key=effect.key
            )
        except NotFoundError as error:
            raise WorkflowNotFoundError("There is no such workflow, or it has no such revision.") from error
        except FailedPreconditionError as error:
            raise FailedPreconditionError("The workflow is not PUBLISHED.") from error
        validate_deployable(data["agent_bindings"], pinned.agent_nodes)
        return {"workflow_revision": pinned.revision}

    async def reserve_agents(self, effect: Effect) -> None:
        """Reserves the agents.

        Raises:
            AgentNotFoundError: one of them is deleted or does not exist.
            FailedPreconditionError: one is not ACTIVE.
            DomainError: the agents service does not answer.
        """
        bindings: Mapping[str, str] = effect.saga.data["agent_bindings"]
        ids = sorted(set(bindings.values()))
        request = agents_pb.ReserveAgentsRequest(holder=_holder(effect), ids=ids)
        try:
            await self._agents.call(
                request, agents_pb.ReserveAgentsResponse, effect.context, idempotency_key=effect.key
            )
        except NotFoundError as error:
            nodes = _nodes(error, ids, bindings)
            raise AgentNotFoundError(f"There is no agent with the id that is bound to {nodes}.") from error
        except FailedPreconditionError as error:
            nodes = _nodes(error, ids, bindings)
            raise FailedPreconditionError(f"The agent that is bound to {nodes} is not ACTIVE.") from error

    async def release_workflow(self, effect: Effect) -> None:
        """Releases the workflow, even if it was never reserved."""
        request = workflows_pb.ReleaseWorkflowRequest(holder=_holder(effect))
        await self._workflows.call(
            request, workflows_pb.ReleaseWorkflowResponse, effect.context, idempotency_key=effect.key
        )

    async def release_agents(self, effect: Effect) -> None:
        """Releases the agents, even if they were never reserved."""
        request = agents_pb.ReleaseAgentsRequest(holder=_holder(effect))
        await self._agents.call(request, agents_pb.ReleaseAgentsResponse, effect.context, idempotency_key=effect.key)


def _holder(effect: Effect) -> reservation_pb2.Holder:
    data = effect.saga.data
    name = f"ipas/{data['ipa_id']}/deployments/{data['deployment_id']}"
    return reservation_pb2.Holder(id=data["deployment_id"], name=name, fencing_token=effect.saga.fencing_token)


def _nodes(refusal: NotFoundError | FailedPreconditionError, ids: list[str], bindings: Mapping[str, str]) -> str:
    """Returns the nodes whose agents an error names."""
    refused = {violation.field for violation in refusal.violations}
    wrong = {id for place, id in enumerate(ids) if f"ids[{place}]" in refused}
    return ", ".join(f"`{node}`" for node, id in sorted(bindings.items()) if id in wrong) or "a node"
