"""A stage for deployments on which nobody works but the test, and what is played there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from api_common.db import Database
from api_common.settings import DatabaseSettings
from api_common.siblings import Siblings
from api_common.telemetry import Metrics
from api_common.testing import Caller, TestDatabase, tls_of
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from services.ipas.tests.factories import activate_agent, create_agent, publish_workflow
from services.ipas.tests.stage import Cast, Stage, StageBeside

if TYPE_CHECKING:
    from ameide.agent.v1.agent_pb2_grpc import AgentServiceAsyncStub
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub


@pytest.fixture(scope="module")
def stage_beside(
    ipas_database: TestDatabase, workflows_database: TestDatabase, agents_database: TestDatabase, certificates: Path
) -> StageBeside:
    databases = {"ipas": ipas_database, "workflows": workflows_database, "agents": agents_database}

    @asynccontextmanager
    async def opened(siblings: dict[str, str]) -> AsyncIterator[Stage]:
        async with AsyncExitStack() as stack:
            admins: dict[str, asyncpg.Connection[Any]] = {}
            for name, found in databases.items():
                admins[name] = await asyncpg.connect(found.admin_url)
                stack.push_async_callback(admins[name].close)
            settings = DatabaseSettings(url=SecretStr(ipas_database.url))
            database = await Database.connect(settings, application_name="stage")
            stack.push_async_callback(database.close)
            called = Siblings(siblings, tls_of(certificates, "ipas"), Metrics(CollectorRegistry()))
            stack.push_async_callback(called.close)
            yield Stage(database, called, admins)

    return opened


@pytest.fixture(scope="module")
async def stage(stage_beside: StageBeside, siblings: dict[str, str]) -> AsyncIterator[Stage]:
    async with stage_beside(siblings) as result:
        yield result


@pytest.fixture
async def ready(
    ipas: IpaServiceAsyncStub, workflows: WorkflowServiceAsyncStub, agents: AgentServiceAsyncStub, admin: Caller
) -> Cast:
    """IPAs of a published workflow."""
    workflow = await publish_workflow(workflows, admin, "ask")
    active, idle = await activate_agent(agents, admin), await create_agent(agents, admin)
    return Cast(ipas, admin, workflow.id, active_agent=active.id, idle_agent=idle.id)
