"""What an IPA is made of lives in other services, which are asked whether it exists in the caller's tenant."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Any, Final

from ameide.agent.v1 import agent_pb2
from ameide.workflow.v1 import workflow_pb2
from api_common.clients import Siblings
from api_common.context import RequestContext
from api_common.errors import DomainError, FieldViolation, NotFoundError, Resource

from ipas_service.domain import validate_bindings, validate_selection, validate_variables
from ipas_service.errors import AgentNotFoundError, WorkflowNotFoundError, WorkflowRevisionNotFoundError

MAX_PARALLEL_CALLS: Final = 16
"""An IPA binds up to 500 agents; one request must not be a flood for its sibling."""

_REFERENCES: Final = frozenset({"workflow_id", "workflow_revision", "agent_bindings"})


class Composition:
    """The workflow and the agents that an IPA names.

    Another tenant's, a deleted one and one that never existed are answered alike. Nothing keeps them from being deleted
    afterwards: databases of two services know no foreign keys, so a deployment asks again.
    """

    def __init__(self, siblings: Siblings) -> None:
        self._workflows = siblings.open("workflows", workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"])
        self._agents = siblings.open("agents", agent_pb2.DESCRIPTOR.services_by_name["AgentService"])

    async def validate(self, ctx: RequestContext, ipa: Mapping[str, Any], *, changed: Collection[str]) -> None:
        """Checks the ``changed`` fields of an IPA whose columns will be ``ipa``.

        Raises:
            ValidationError: the choice is incomplete, or a binding names no AGENT node.
            WorkflowNotFoundError: the tenant has no such live workflow.
            WorkflowRevisionNotFoundError: the workflow has no such revision.
            AgentNotFoundError: the tenant has no such live agent.
            DomainError: a sibling could not be asked.
        """
        if "variables" in changed:
            validate_variables(ipa["variables"] or {})
        if _REFERENCES.isdisjoint(changed):
            return
        workflow_id, revision, bindings = ipa["workflow_id"], ipa["workflow_revision"], ipa["agent_bindings"]
        validate_selection(workflow_id=workflow_id or "", workflow_revision=revision, bindings=bindings)
        if not workflow_id:
            return
        definition = await self._definition(ctx, workflow_id, revision)
        validate_bindings(bindings, {node.id for node in definition.nodes if node.type == workflow_pb2.Node.AGENT})
        if "agent_bindings" in changed:
            await self._require_agents(ctx, bindings)

    async def _definition(self, ctx: RequestContext, workflow_id: str, revision: int) -> workflow_pb2.Definition:
        """Returns the graph of the revision, or without one the graph that is edited."""
        try:
            request = workflow_pb2.GetWorkflowRequest(id=workflow_id)
            workflow = await self._workflows.call(request, workflow_pb2.Workflow, ctx)
        except NotFoundError as error:
            raise _no_workflow(workflow_id) from error
        if workflow.HasField("delete_time"):
            raise _no_workflow(workflow_id)
        if not revision:
            return workflow.definition
        wanted = workflow_pb2.GetWorkflowRevisionRequest(workflow_id=workflow_id, revision=revision)
        try:
            return (await self._workflows.call(wanted, workflow_pb2.WorkflowRevision, ctx)).definition
        except NotFoundError as error:
            raise WorkflowRevisionNotFoundError(
                "The workflow has no such revision.",
                violations=[FieldViolation("ipa.workflow_revision", "is no revision of the workflow")],
            ) from error

    async def _require_agents(self, ctx: RequestContext, bindings: Mapping[str, str]) -> None:
        ids = sorted(set(bindings.values()))
        turn = asyncio.Semaphore(MAX_PARALLEL_CALLS)

        async def exists(id: str) -> bool:
            async with turn:
                try:
                    agent = await self._agents.call(agent_pb2.GetAgentRequest(id=id), agent_pb2.Agent, ctx)
                except NotFoundError:
                    return False
            return not agent.HasField("delete_time")

        try:
            async with asyncio.TaskGroup() as group:
                answers = {id: group.create_task(exists(id)) for id in ids}
        except ExceptionGroup as failures:
            # The first one ended all others; the caller hears of one.
            raise failures.exceptions[0] from failures
        missing = [id for id in ids if not answers[id].result()]
        if missing:
            raise _no_agent(missing, bindings)


def _no_workflow(id: str) -> DomainError:
    violation = FieldViolation("ipa.workflow_id", "names no workflow")
    return WorkflowNotFoundError(
        "There is no workflow with this id.", resource=Resource("workflow", id), violations=[violation]
    )


def _no_agent(missing: Collection[str], bindings: Mapping[str, str]) -> DomainError:
    nodes = sorted(node for node, id in bindings.items() if id in missing)
    return AgentNotFoundError(
        "There is no agent with this id.",
        resource=Resource("agent", min(missing)),
        violations=[FieldViolation(f"ipa.agent_bindings[{node}]", "names no agent") for node in nodes],
    )
