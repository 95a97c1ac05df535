"""proto ↔ row of an agent. Tools are stored as JSON, under the names of the contract."""

from collections.abc import Iterable, Mapping
from typing import Any

from ameide.agent.v1 import agent_pb2 as pb
from api_common.contract import struct_from_json, struct_to_json
from api_common.db import Row
from api_common.resources import Make, make_resource

MUTABLE = frozenset({"display_name", "labels", "description", "model", "instructions", "tools", "parameters"})
"""The fields that Create and Update write."""


def agent_to_proto(row: Row, make: Make[pb.Agent] = pb.Agent) -> pb.Agent:
    return make_resource(
        row,
        make,
        description=row["description"],
        model=row["model"],
        instructions=row["instructions"],
        tools=map(_tool_to_proto, row["tools"]),
        parameters=struct_from_json(row["parameters"]),
    )


def agent_from_proto(agent: pb.Agent, fields: Iterable[str] = MUTABLE) -> dict[str, Any]:
    """Returns the columns of the named fields.

    Raises:
        ValidationError: parameters or the schema of a tool contain a value that JSON cannot represent.
    """
    columns = {
        "display_name": agent.display_name,
        "labels": dict(agent.labels),
        "description": agent.description,
        "model": agent.model,
        "instructions": agent.instructions,
        "tools": [_tool_from_proto(tool, f"agent.tools[{index}]") for index, tool in enumerate(agent.tools)],
        "parameters": struct_to_json(agent.parameters, "agent.parameters") if agent.HasField("parameters") else None,
    }
    return {name: columns[name] for name in fields}


def _tool_to_proto(tool: Mapping[str, Any]) -> pb.Tool:
    return pb.Tool(
        name=tool["name"], description=tool["description"], input_schema=struct_from_json(tool["input_schema"])
    )


def _tool_from_proto(tool: pb.Tool, path: str) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": struct_to_json(tool.input_schema, f"{path}.input_schema"),
    }
