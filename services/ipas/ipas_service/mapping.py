"""proto ↔ row of an IPA."""

from collections.abc import Iterable, Mapping
from typing import Any

from ameide.ipa.v1 import ipa_pb2 as pb
from api_common.contract import struct_from_json, struct_to_json
from api_common.db import Row
from api_common.resources import Make, fill, fill_times, make_resource, row_etag
from google.protobuf.json_format import ParseDict

from ipas_service.domain import UNDER_WAY

MUTABLE = frozenset(
    {"display_name", "labels", "description", "workflow_id", "workflow_revision", "agent_bindings", "variables"}
)
"""The fields that Create and Update write."""


def ipa_to_proto(row: Row, make: Make[pb.Ipa] = pb.Ipa) -> pb.Ipa:
    ipa = make_resource(
        row,
        make,
        description=row["description"],
        workflow_id=row["workflow_id"],
        workflow_revision=row["workflow_revision"],
        variables=struct_from_json(row["variables"]),
        deployment_id=row["deployment_id"],
    )
    fill(ipa.agent_bindings, row["agent_bindings"])
    return ipa


def deployment_to_proto(row: Row, make: Make[pb.Deployment] = pb.Deployment) -> pb.Deployment:
    deployment = make(
        id=row["id"],
        tenant_id=row["tenant_id"],
        state=row["state"],
        created_by=row["created_by"],
        etag=row_etag(row),
        ipa_id=row["ipa_id"],
        workflow_id=row["workflow_id"],
        workflow_revision=row["workflow_revision"],
        variables=struct_from_json(row["variables"]),
        steps=[ParseDict(step, pb.Deployment.Step()) for step in row["steps"]],
        retire_steps=[ParseDict(step, pb.Deployment.Step()) for step in row["retire_steps"]],
    )
    waits = ("deadline_time", "next_attempt_time") if row["state"] in UNDER_WAY else ()
    fill_times(deployment, row, "create_time", "update_time", *waits)
    fill(deployment.agent_bindings, row["agent_bindings"])
    return deployment


def ipa_from_proto(ipa: pb.Ipa, fields: Iterable[str] = MUTABLE) -> dict[str, Any]:
    """Returns the columns of the named fields; ids in lower case, as their services write them.

    Raises:
        ValidationError: the variables contain a value that JSON cannot represent.
    """
    columns = {
        "display_name": ipa.display_name,
        "labels": dict(ipa.labels),
        "description": ipa.description,
        "workflow_id": ipa.workflow_id.lower() or None,
        "workflow_revision": ipa.workflow_revision,
        "agent_bindings": {node: agent_id.lower() for node, agent_id in ipa.agent_bindings.items()},
        "variables": struct_to_json(ipa.variables, "ipa.variables") if ipa.HasField("variables") else None,
    }
    return {name: columns[name] for name in fields}


def changed_fields(row: Row, values: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names of ``values`` that differ from ``row``: clients send back what they read (AIP-203)."""
    # Thousands of JSON values are converted only where Python cannot tell: to it, true equals 1.
    changed = {"variables"} if values.get("variables") != row["variables"] else set[str]()
    plain = {} if "variables" in values and not changed else {"variables": None}
    before, after = ipa_to_proto({**row, **plain}), ipa_to_proto({**row, **values, **plain})
    return frozenset(name for name in values if name in changed or getattr(before, name) != getattr(after, name))
