"""Watching the deployments of an IPA; what all watches share is tested in services/users/tests/test_watch.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc
import pytest
from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.testing import Caller, refused

from services.ipas.tests.factories import activate_agent, create_ipa, publish_workflow
from tests.watching import watching

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

S = grpc.StatusCode

Making = Callable[[], Awaitable[pb.Ipa]]


@pytest.fixture
async def ready(
    ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, agents: AgentServiceAsyncStub, admin: Caller
) -> Making:
    """Makes an IPA that may be deployed."""
    workflow, agent = await publish_workflow(workflows, admin, "ask"), await activate_agent(agents, admin)
    return lambda: create_ipa(ipas, admin, workflow_id=workflow.id, agent_bindings={"ask": agent.id})


class TestWatchDeployments:
    async def test_tells_each_step_of_one_ipa(self, ipas: IpaServiceAsyncStub, ready: Making, admin: Caller) -> None:
        ipa, other = await ready(), await ready()
        async with watching(ipas.WatchDeployments, pb.WatchDeploymentsRequest(ipa_id=ipa.id), admin) as watch:
            await watch.until("bookmark")
            await ipas.DeployIpa(pb.DeployIpaRequest(id=other.id), metadata=admin.metadata)
            begun = await ipas.DeployIpa(pb.DeployIpaRequest(id=ipa.id), metadata=admin.metadata)
            assert await watch.change() == ("created", begun)
            seen = [begun]
            while seen[-1].state != pb.Deployment.DEPLOYED:
                event, deployment = await watch.change()
                assert (event, deployment.id) == ("updated", begun.id)
                seen.append(deployment)
        assert [one.etag for one in seen] == [f'"{number + 1}"' for number in range(len(seen))]
        request = pb.GetDeploymentRequest(ipa_id=ipa.id, id=begun.id)
        assert seen[-1] == await ipas.GetDeployment(request, metadata=admin.metadata)

    async def test_a_filter_chooses_among_those_of_the_ipa(
        self, ipas: IpaServiceAsyncStub, ready: Making, admin: Caller
    ) -> None:
        ipa, other = await ready(), await ready()
        deployed = await ipas.DeployIpa(pb.DeployIpaRequest(id=ipa.id), metadata=admin.metadata)
        hidden = await ipas.DeployIpa(pb.DeployIpaRequest(id=other.id), metadata=admin.metadata)

        async def found(text: str) -> list[str]:
            request = pb.WatchDeploymentsRequest(ipa_id=ipa.id, filter=text, initial_state=True)
            async with watching(ipas.WatchDeployments, request, admin) as watch:
                messages = await watch.until("bookmark")
            return list({message.created.id for message in messages if message.HasField("created")})

        assert await found("") == await found(f"id = {deployed.id}") == [deployed.id]
        assert await found(f"id = {hidden.id} OR ipa_id = {other.id}") == []
        with refused(S.INVALID_ARGUMENT, "INVALID_FILTER"):
            await found(f"id = {hidden.id}) OR (id = {hidden.id}")
