"""The rules of an IPA: its states, which fields may change in each, and the nodes that agents may be bound to."""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Final

from api_common.errors import FailedPreconditionError, FieldViolation, ValidationError, ViolationReason
from api_common.resources import Lifecycle

from ipas_service.errors import IncompleteIpaError, InvalidBindingsError


class State(StrEnum):
    DRAFT = "DRAFT"
    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    FAILED = "FAILED"
    RETIRED = "RETIRED"


class DeploymentState(StrEnum):
    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    COMPENSATING = "COMPENSATING"
    FAILED = "FAILED"
    RETIRING = "RETIRING"
    RETIRED = "RETIRED"
    NEEDS_ATTENTION = "NEEDS_ATTENTION"


UNDER_WAY: Final = frozenset({DeploymentState.DEPLOYING, DeploymentState.COMPENSATING, DeploymentState.RETIRING})
"""The states in which a deployment does not stay."""

LIFECYCLE: Final = Lifecycle(
    resource="IPA",
    transitions={
        # A deployed IPA must be retired first.
        "delete": ({State.DRAFT, State.FAILED, State.RETIRED}, None),
        "deploy": ({State.DRAFT, State.FAILED}, State.DEPLOYING),
        "activate": ({State.DEPLOYING}, State.DEPLOYED),
        "fail": ({State.DEPLOYING}, State.FAILED),
        # What is being deployed is cancelled.
        "retire": ({State.DEPLOYING, State.DEPLOYED, State.FAILED}, State.RETIRED),
    },
)

DEPLOYED_FIELDS: Final = frozenset({"workflow_id", "workflow_revision", "agent_bindings", "variables"})
"""The fields that make up a deployment."""

_OPEN: Final = frozenset({State.DRAFT, State.FAILED})


def require_changeable(state: str, fields: Collection[str]) -> None:
    """Checks that ``fields`` may be written: the parts of a deployed or retired IPA may not change.

    Raises:
        FailedPreconditionError: one of them is part of the deployment and the IPA is neither DRAFT nor FAILED.
    """
    fixed = sorted(DEPLOYED_FIELDS.intersection(fields))
    if fixed and state not in _OPEN:
        raise FailedPreconditionError(
            f"Cannot change {', '.join(fixed)} of the IPA: it is {state} and must be DRAFT or FAILED.",
            metadata={"verb": "update", "state": state, "allowed": "DRAFT,FAILED", "fields": ",".join(fixed)},
        )


def require_workflow(workflow_id: str | None) -> None:
    """Checks that the IPA names a workflow.

    Raises:
        IncompleteIpaError: it names none.
    """
    if workflow_id is None:
        raise IncompleteIpaError("The IPA names no workflow: choose one first.")


def validate_selection(*, workflow_id: str, workflow_revision: int, bindings: Mapping[str, str]) -> None:
    """Checks that revision and bindings come with a workflow.

    Raises:
        ValidationError: a revision or bindings are given without a workflow.
    """
    parts = [name for name, part in (("workflow_revision", workflow_revision), ("agent_bindings", bindings)) if part]
    if parts and not workflow_id:
        needed_by = " and ".join(f"`{name}`" for name in parts)
        message = "The choice of the workflow is incomplete."
        raise ValidationError.of("ipa.workflow_id", f"is needed by {needed_by}", "REQUIRED", message=message)


def validate_bindings(bindings: Mapping[str, str], agent_nodes: Collection[str]) -> None:
    """Checks an IPA before it is saved: agents may be bound only to AGENT nodes of the workflow.

    Raises:
        InvalidBindingsError: a binding names no AGENT node; there is one violation per node.
    """
    _refuse(list(_unknown(bindings, agent_nodes)))


def validate_deployable(bindings: Mapping[str, str], agent_nodes: Collection[str]) -> None:
    """Checks an IPA before it is deployed: every AGENT node has an agent, and no other node has one.

    Raises:
        InvalidBindingsError: there is one violation per node.
    """
    missing = [node for node in agent_nodes if not bindings.get(node)]
    unbound = [_at(node, "is missing: the AGENT node has no agent", "REQUIRED") for node in missing]
    _refuse([*_unknown(bindings, agent_nodes), *unbound])


def _unknown(bindings: Mapping[str, str], agent_nodes: Collection[str]) -> Iterator[FieldViolation]:
    for node in bindings:
        if node not in agent_nodes:
            yield _at(node, "names no AGENT node of the workflow", "CONFLICT")


def _at(node: str, description: str, reason: ViolationReason) -> FieldViolation:
    return FieldViolation(f"ipa.agent_bindings[{node}]", description, reason)


def _refuse(violations: list[FieldViolation]) -> None:
    if violations:
        raise InvalidBindingsError(violations=violations)
