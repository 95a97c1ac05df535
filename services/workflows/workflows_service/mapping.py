"""proto ↔ row of a workflow and its revisions. A definition is stored as JSON, under the names of the contract."""

from collections.abc import Iterable, Mapping
from typing import Any

from ameide.workflow.v1 import workflow_pb2 as pb
from api_common.contract import struct_from_json, struct_to_json
from api_common.db import Row
from api_common.errors import ValidationError
from api_common.resources import Make, fill_times, make_resource

from workflows_service.domain import MAX_DEFINITION_BYTES

MUTABLE = frozenset({"display_name", "labels", "description", "definition"})
"""The fields that Create and Update write."""

_NODES = "workflow.definition.nodes"


def workflow_to_proto(row: Row, make: Make[pb.Workflow] = pb.Workflow) -> pb.Workflow:
    return make_resource(
        row,
        make,
        description=row["description"],
        definition=_definition_to_proto(row["definition"]),
        revision=row["revision"],
    )


def workflow_revision_to_proto(row: Row, make: Make[pb.WorkflowRevision] = pb.WorkflowRevision) -> pb.WorkflowRevision:
    revision = make(
        tenant_id=row["tenant_id"],
        workflow_id=row["workflow_id"],
        revision=row["revision"],
        definition=_definition_to_proto(row["definition"]),
        created_by=row["created_by"],
    )
    fill_times(revision, row, "create_time")
    return revision


def workflow_from_proto(workflow: pb.Workflow, fields: Iterable[str] = MUTABLE) -> dict[str, Any]:
    """Returns the columns of the named fields.

    Raises:
        ValidationError: the settings of a node contain a value that JSON cannot represent.
    """
    columns = {
        "display_name": workflow.display_name,
        "labels": dict(workflow.labels),
        "description": workflow.description,
        "definition": _definition_from_proto(workflow.definition) if workflow.HasField("definition") else None,
    }
    return {name: columns[name] for name in fields}


def _definition_to_proto(definition: Mapping[str, Any] | None) -> pb.Definition | None:
    if definition is None:
        return None
    return pb.Definition(
        nodes=[pb.Node(**{**node, "config": struct_from_json(node["config"])}) for node in definition["nodes"]],
        edges=[pb.Edge(**edge) for edge in definition["edges"]],
    )


def _definition_from_proto(definition: pb.Definition) -> dict[str, Any]:
    # No limit of its own, but before anything is converted: JSON may be shorter than its message, never by half.
    if definition.ByteSize() > 2 * MAX_DEFINITION_BYTES:
        description = f"must be at most {MAX_DEFINITION_BYTES} bytes as JSON"
        raise ValidationError.of("workflow.definition", description, "TOO_LONG")
    return {
        "nodes": [
            {
                "id": node.id,
                "display_name": node.display_name,
                "type": pb.Node.Type.Name(node.type),
                "config": struct_to_json(node.config, f"{_NODES}[{index}].config") if node.HasField("config") else None,
            }
            for index, node in enumerate(definition.nodes)
        ],
        "edges": [
            {"source": edge.source, "target": edge.target, "condition": edge.condition} for edge in definition.edges
        ],
    }
