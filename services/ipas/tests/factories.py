"""IPAs to test with, and what they name."""

from __future__ import annotations

import asyncio
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

import asyncpg
from ameide.agent.v1 import agent_pb2
from ameide.ipa.v1 import ipa_pb2 as pb
from ameide.workflow.v1 import workflow_pb2
from api_common.testing import Caller, TestDatabase

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

_numbers = count(1)

UNDER_WAY = {pb.Deployment.DEPLOYING, pb.Deployment.COMPENSATING, pb.Deployment.RETIRING}
"""What a deployment does not stay."""


def an_ipa(**fields: Any) -> pb.Ipa:
    """Returns an IPA that may be created; ``fields`` replace its own."""
    return pb.Ipa(**{"display_name": f"IPA {next(_numbers)}", **fields})


async def create_ipa(ipas: IpaServiceAsyncStub, caller: Caller, **fields: Any) -> pb.Ipa:
    """Creates an IPA as ``caller``."""
    return await ipas.CreateIpa(pb.CreateIpaRequest(ipa=an_ipa(**fields)), metadata=caller.metadata)


def a_definition(*agent_nodes: str) -> workflow_pb2.Definition:
    """Returns a graph that may be published: START, the AGENT nodes one after the other, END."""
    node = workflow_pb2.Node
    steps = [node(id=id, type=node.AGENT) for id in agent_nodes]
    nodes = [node(id="start", type=node.START), *steps, node(id="end", type=node.END)]
    ways = pairwise(nodes)
    edges = [workflow_pb2.Edge(source=source.id, target=target.id) for source, target in ways]
    return workflow_pb2.Definition(nodes=nodes, edges=edges)


async def create_workflow(
    workflows: WorkflowServiceAsyncStub, caller: Caller, *agent_nodes: str
) -> workflow_pb2.Workflow:
    """Creates a workflow that is not published yet."""
    workflow = workflow_pb2.Workflow(display_name=f"Workflow {next(_numbers)}", definition=a_definition(*agent_nodes))
    return await workflows.CreateWorkflow(
        workflow_pb2.CreateWorkflowRequest(workflow=workflow), metadata=caller.metadata
    )


async def publish_workflow(
    workflows: WorkflowServiceAsyncStub, caller: Caller, *agent_nodes: str
) -> workflow_pb2.Workflow:
    """Creates a workflow and publishes its first revision."""
    workflow = await create_workflow(workflows, caller, *agent_nodes)
    return await workflows.PublishWorkflow(
        workflow_pb2.PublishWorkflowRequest(id=workflow.id), metadata=caller.metadata
    )


async def create_agent(agents: AgentServiceAsyncStub, caller: Caller) -> agent_pb2.Agent:
    """Creates an agent as ``caller``."""
    agent = agent_pb2.Agent(display_name=f"Agent {next(_numbers)}", model="gpt-4o")
    return await agents.CreateAgent(agent_pb2.CreateAgentRequest(agent=agent), metadata=caller.metadata)


async def activate_agent(agents: AgentServiceAsyncStub, caller: Caller) -> agent_pb2.Agent:
    """Creates an agent that may be put to work."""
    agent = await create_agent(agents, caller)
    return await agents.ActivateAgent(agent_pb2.ActivateAgentRequest(id=agent.id), metadata=caller.metadata)


async def deploy(ipas: IpaServiceAsyncStub, caller: Caller, id: str) -> pb.Deployment:
    """Deploys an IPA and returns the deployment when it has come to rest."""
    begun = await ipas.DeployIpa(pb.DeployIpaRequest(id=id), metadata=caller.metadata)
    return await settled(ipas, caller, begun)


async def settled(ipas: IpaServiceAsyncStub, caller: Caller, deployment: pb.Deployment) -> pb.Deployment:
    """Returns a deployment when nobody works on it any more."""
    request = pb.GetDeploymentRequest(ipa_id=deployment.ipa_id, id=deployment.id)
    async with asyncio.timeout(20):
        while True:
            found = await ipas.GetDeployment(request, metadata=caller.metadata)
            if found.state not in UNDER_WAY:
                return found
            await asyncio.sleep(0.01)


async def put_into_state(database: TestDatabase, ipa: pb.Ipa, state: str) -> None:
    """Writes a state that no RPC leads to yet."""
    connection = await asyncpg.connect(database.admin_url)
    try:
        await connection.execute("UPDATE ipas SET state = $1 WHERE id = $2", state, ipa.id)
    finally:
        await connection.close()
