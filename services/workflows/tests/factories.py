"""Workflows to test with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any

from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.contract import struct_from_json
from api_common.testing import Caller

if TYPE_CHECKING:
    from ameide.workflow.v1.workflow_pb2_grpc import WorkflowServiceAsyncStub

_numbers = count(1)


def a_definition(*steps: pb.Node) -> pb.Definition:
    """Returns a graph that may be published: START, then ``steps`` one after the other, then END."""
    nodes = [a_node("start", pb.Node.START), *steps, a_node("end", pb.Node.END)]
    edges = [pb.Edge(source=source.id, target=target.id) for source, target in pairwise(nodes)]
    return pb.Definition(nodes=nodes, edges=edges)


def a_node(id: str, type: pb.Node.Type.ValueType = pb.Node.TASK, *, config: Mapping[str, Any] | None = None) -> pb.Node:
    """Returns a step with settings from plain JSON; None leaves them out."""
    return pb.Node(id=id, type=type, config=struct_from_json(config))


def a_workflow(**fields: Any) -> pb.Workflow:
    """Returns a workflow that may be created and published; ``fields`` replace its own."""
    return pb.Workflow(**{"display_name": f"Workflow {next(_numbers)}", "definition": a_definition(), **fields})


async def create_workflow(workflows: WorkflowServiceAsyncStub, caller: Caller, **fields: Any) -> pb.Workflow:
    """Creates a workflow as ``caller``."""
    request = pb.CreateWorkflowRequest(workflow=a_workflow(**fields))
    return await workflows.CreateWorkflow(request, metadata=caller.metadata)


async def publish(workflows: WorkflowServiceAsyncStub, caller: Caller, workflow: pb.Workflow) -> pb.Workflow:
    """Publishes the definition of ``workflow`` as its next revision."""
    return await workflows.PublishWorkflow(pb.PublishWorkflowRequest(id=workflow.id), metadata=caller.metadata)
