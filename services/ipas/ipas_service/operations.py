"""Checks in the sibling services that the workflow and the agents of an IPA exist in the caller's tenant."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from ameide.agent.v1 import agent_pb2
from ameide.workflow.v1 import workflow_pb2
from api_common.call import RequestContext
from api_common.contract import check_size
from api_common.db import Row
from api_common.errors import AbortedError, FieldViolation, NotFoundError, PayloadTooLargeError, ResourceInfo
from api_common.resources import map_items
from api_common.siblings import Siblings

from ipas_service.domain import DEPLOYED_FIELDS, validate_bindings, validate_selection
from ipas_service.errors import AgentNotFoundError, WorkflowNotFoundError, WorkflowRevisionNotFoundError

MAX_IDS: Final = 100
"""The most ids in one BatchGet. Calls follow each other, so that one request does not flood a sibling."""

_ATTEMPTS: Final = 3
"""How often rows are locked and checked anew because they changed meanwhile."""

_REFERENCES: Final = frozenset({"workflow_id", "workflow_revision", "agent_bindings"})

FoundT = TypeVar("FoundT")


@dataclass(frozen=True, slots=True)
class Choice:
    """The parts that an IPA will have."""

    ipa: Mapping[str, Any]
    """Its columns."""
    changed: Collection[str]
    """The columns that change; the others were checked when they were written."""

    @property
    def graph(self) -> tuple[str, int] | None:
        """The workflow and its revision (0: the graph that is edited), if they have to be checked."""
        workflow_id: str | None = self.ipa["workflow_id"]
        if workflow_id is None or _REFERENCES.isdisjoint(self.changed):
            return None
        return workflow_id, self.ipa["workflow_revision"]

    @property
    def agents(self) -> Mapping[str, str]:
        """The bindings whose agents have to be checked."""
        bindings: Mapping[str, str] = self.ipa["agent_bindings"]
        return bindings if self.graph is not None and "agent_bindings" in self.changed else {}


Visit = Callable[[Sequence[Choice], Callable[[Choice], None]], object]
"""Calls a check for each choice, and says in its error which one it is about."""


class Composition:
    """The workflows and the agents that IPAs name.

    A workflow or agent of another tenant, a deleted one and one that never existed get the same answer. It may be
    deleted afterwards, because no foreign key spans two databases; a deployment therefore checks again.
    """

    def __init__(self, siblings: Siblings) -> None:
        self._workflows = siblings.open("workflows", workflow_pb2.DESCRIPTOR.services_by_name["WorkflowService"])
        self._agents = siblings.open("agents", agent_pb2.DESCRIPTOR.services_by_name["AgentService"])

    async def validate(self, ctx: RequestContext, choices: Sequence[Choice], *, visit: Visit = map_items) -> None:
        """Checks the changed parts of the IPAs of a batch; an error names its item.

        Args:
            visit: `visit_one` for the IPA of a call without items.

        Raises:
            ValidationError: a choice is incomplete, or a binding names no AGENT node.
            WorkflowNotFoundError: the tenant has no such live workflow.
            WorkflowRevisionNotFoundError: the workflow has no such revision.
            AgentNotFoundError: the tenant has no such live agent.
            DomainError: a sibling does not answer.
        """
        visit(choices, _check_form)
        nodes = await self._agent_nodes(ctx, dict.fromkeys(graph for choice in choices if (graph := choice.graph)))
        visit(choices, lambda choice: _check_graph(choice, nodes))
        live = await self._live_agents(ctx, sorted({id for choice in choices for id in choice.agents.values()}))
        visit(choices, lambda choice: _check_agents(choice, live))

    async def _agent_nodes(
        self, ctx: RequestContext, graphs: Collection[tuple[str, int]]
    ) -> dict[tuple[str, int], set[str]]:
        """Returns the AGENT nodes of each graph that exists; revision 0 is the graph that is edited."""

        async def ask(ids: Sequence[str]) -> list[tuple[str, set[str]]]:
            request = workflow_pb2.BatchGetWorkflowsRequest(ids=ids)
            answer = await self._workflows.call(request, workflow_pb2.BatchGetWorkflowsResponse, ctx)
            live = (workflow for workflow in answer.workflows if not workflow.HasField("delete_time"))
            return [(workflow.id, _nodes_of(workflow.definition)) for workflow in live]

        edited = await _find(list(dict.fromkeys(id for id, _ in graphs)), ask)
        found = {(id, 0): nodes for id, nodes in edited}
        for id, revision in graphs:
            if revision and (id, 0) in found:
                request = workflow_pb2.GetWorkflowRevisionRequest(workflow_id=id, revision=revision)
                try:
                    snapshot = await self._workflows.call(request, workflow_pb2.WorkflowRevision, ctx)
                except NotFoundError:
                    continue
                found[id, revision] = _nodes_of(snapshot.definition)
        return found

    async def _live_agents(self, ctx: RequestContext, ids: Sequence[str]) -> set[str]:
        async def ask(ids: Sequence[str]) -> list[str]:
            request = agent_pb2.BatchGetAgentsRequest(ids=ids)
            answer = await self._agents.call(request, agent_pb2.BatchGetAgentsResponse, ctx)
            return [agent.id for agent in answer.agents if not agent.HasField("delete_time")]

        return set(await _find(ids, ask))


async def _find(ids: Sequence[str], ask: Callable[[Sequence[str]], Awaitable[list[FoundT]]]) -> list[FoundT]:
    """Returns what ``ask`` returns about those of ``ids`` that exist.

    Args:
        ask: a BatchGet, which returns all or fails and names the missing ids, or says that the answer is too large;
            it keeps only what is needed of the resources, because they may be large.
    """
    waiting = [ids[start : start + MAX_IDS] for start in range(0, len(ids), MAX_IDS)]
    found: list[FoundT] = []
    while waiting:
        asked = waiting.pop()
        try:
            found += await ask(asked)
        except NotFoundError as error:
            missing = {violation.field for violation in error.violations}
            rest = [id for place, id in enumerate(asked) if f"ids[{place}]" not in missing]
            if len(rest) == len(asked):
                raise
            waiting += [rest] if rest else []
        except PayloadTooLargeError:
            if len(asked) == 1:
                raise
            waiting += [asked[: len(asked) // 2], asked[len(asked) // 2 :]]
    return found


def visit_one(choices: Sequence[Choice], check: Callable[[Choice], None]) -> None:
    check(choices[0])


def _nodes_of(definition: workflow_pb2.Definition) -> set[str]:
    return {node.id for node in definition.nodes if node.type == workflow_pb2.Node.AGENT}


def _check_form(choice: Choice) -> None:
    ipa = choice.ipa
    if "variables" in choice.changed:
        check_size("ipa.variables", ipa["variables"])
    if not _REFERENCES.isdisjoint(choice.changed):
        validate_selection(
            workflow_id=ipa["workflow_id"] or "",
            workflow_revision=ipa["workflow_revision"],
            bindings=ipa["agent_bindings"],
        )


def _check_graph(choice: Choice, nodes: Mapping[tuple[str, int], Collection[str]]) -> None:
    if choice.graph is None:
        return
    workflow_id, _ = choice.graph
    if (workflow_id, 0) not in nodes:
        raise WorkflowNotFoundError(
            "There is no workflow with this id.",
            resource=ResourceInfo("workflow", workflow_id),
            violations=[FieldViolation("ipa.workflow_id", "names no workflow", "NOT_FOUND")],
        )
    if choice.graph not in nodes:
        raise WorkflowRevisionNotFoundError(
            "The workflow has no such revision.",
            violations=[FieldViolation("ipa.workflow_revision", "is no revision of the workflow", "NOT_FOUND")],
        )
    validate_bindings(choice.ipa["agent_bindings"], nodes[choice.graph])


def _check_agents(choice: Choice, live: Collection[str]) -> None:
    missing = {node: id for node, id in choice.agents.items() if id not in live}
    if missing:
        raise AgentNotFoundError(
            "There is no agent with this id.",
            resource=ResourceInfo("agent", min(missing.values())),
            violations=[
                FieldViolation(f"ipa.agent_bindings[{node}]", "names no agent", "NOT_FOUND") for node in sorted(missing)
            ],
        )


async def lock_checked(
    ctx: RequestContext, lock: Callable[[], Awaitable[Sequence[Row]]], check: Callable[[Sequence[Row]], Awaitable[None]]
) -> Sequence[Row]:
    """Locks rows that ``check`` accepts; while it waits for siblings, no row is locked.

    Raises:
        AbortedError: others change the rows all the time.
    """
    rows = await lock()
    for _ in range(_ATTEMPTS):
        await check(rows)
        if not ctx.transaction.released:
            return rows
        before, rows = list(map(_checked, rows)), await lock()
        if list(map(_checked, rows)) == before:
            return rows
    raise AbortedError("Another request changed the IPA; try again.")


def _checked(row: Row) -> list[Any]:
    """Returns what the check of a row depends on."""
    return [row["state"], *(row[name] for name in sorted(DEPLOYED_FIELDS))]
