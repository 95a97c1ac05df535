"""Who asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import uuid_utils
from ameide.agent.v1 import agent_pb2
from ameide.agent.v1.agent_pb2_grpc import AgentServiceStub
from ameide.ipa.v1 import ipa_pb2
from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceStub
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from ameide.workflow.v1 import workflow_pb2
from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceStub
from google.protobuf.field_mask_pb2 import FieldMask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import grpc
    from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceAsyncStub
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

    from tools.topology import Service

# As long as the edge waits: the caller is never the one that gives up first, unless a test says so.
_SECONDS = 30


class Caller:
    """An administrator of a tenant, who asks through the edge and repeats nothing by itself."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self.users: UserServiceAsyncStub = UserServiceStub(channel)
        self.workflows: WorkflowServiceAsyncStub = WorkflowServiceStub(channel)
        self.ipas: IpaServiceAsyncStub = IpaServiceStub(channel)
        self._agents: Any = AgentServiceStub(channel)
        self._options: Any = {"metadata": metadata, "timeout": _SECONDS}
        self._run = str(uuid_utils.uuid7())

    def email(self, number: int) -> str:
        """Returns the e-mail of the user of this number."""
        return f"{number}@{self._run}.example"

    def create_user(self, number: int) -> Any:
        """Creates a user with an e-mail of its own: a second creation would be refused."""
        user = pb.User(display_name="x", email=self.email(number))
        return self.users.CreateUser(pb.CreateUserRequest(user=user), **self._options)

    def rename_user(self, user: pb.User, *, timeout: float = _SECONDS) -> Any:
        """Calls ``user`` `renamed`."""
        changed = pb.User(id=user.id, display_name="renamed")
        request = pb.UpdateUserRequest(user=changed, update_mask=FieldMask(paths=["display_name"]))
        return self.users.UpdateUser(request, **(self._options | {"timeout": timeout}))

    def list_users(self) -> Any:
        """Lists one user."""
        return self.users.ListUsers(pb.ListUsersRequest(page_size=1), **self._options)

    def create_workflow(self) -> Any:
        """Creates a workflow."""
        workflow = workflow_pb2.Workflow(display_name="x")
        return self.workflows.CreateWorkflow(workflow_pb2.CreateWorkflowRequest(workflow=workflow), **self._options)

    def create_ipa(self, *, workflow_id: str = "", timeout: float = _SECONDS) -> Any:
        """Creates an IPA; the ipas service asks workflows whether there is such a workflow."""
        ipa = ipa_pb2.Ipa(display_name="x", workflow_id=workflow_id)
        return self.ipas.CreateIpa(ipa_pb2.CreateIpaRequest(ipa=ipa), **(self._options | {"timeout": timeout}))

    def write_and_read(self, number: int) -> Any:
        """Creates and lists users by turns."""
        return self.list_users() if number % 2 else self.create_user(number)

    def ask_each(self, services: Collection[Service]) -> Callable[[int], Any]:
        """Returns what creates and lists, one of ``services`` after the other."""
        workflows = workflow_pb2.ListWorkflowsRequest(page_size=1)
        agents = agent_pb2.ListAgentsRequest(page_size=1)
        agent = agent_pb2.CreateAgentRequest(agent=agent_pb2.Agent(display_name="x", model="gpt-4o"))
        ipas = ipa_pb2.ListIpasRequest(page_size=1)
        asks: dict[str, list[Callable[[int], Any]]] = {
            "users": [self.create_user, lambda _: self.list_users()],
            "workflows": [
                lambda _: self.create_workflow(),
                lambda _: self.workflows.ListWorkflows(workflows, **self._options),
            ],
            "agents": [
                lambda _: self._agents.CreateAgent(agent, **self._options),
                lambda _: self._agents.ListAgents(agents, **self._options),
            ],
            "ipas": [lambda _: self.create_ipa(), lambda _: self.ipas.ListIpas(ipas, **self._options)],
        }
        chosen = [ask for service in services for ask in asks[service.name]]
        return lambda number: chosen[number % len(chosen)](number)
