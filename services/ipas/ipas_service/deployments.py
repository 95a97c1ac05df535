"""Deployments of IPAs: a call begins them, sagas execute them (ADR 26)."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid5

import uuid_utils
from api_common.call import RequestContext
from api_common.db import Row, Transaction
from api_common.errors import AbortedError, ResourceInfo
from api_common.events import record_business_event
from api_common.resources import row_etag
from api_common.sagas import Plan, Saga, Sagas, SagaState, Step

from ipas_service.domain import LIFECYCLE, DeploymentState, State, require_workflow
from ipas_service.repository import DeploymentRepository, IpaRepository
from ipas_service.rollout import Rollout

_DEPLOYING: Final = {
    SagaState.RUNNING: DeploymentState.DEPLOYING,
    SagaState.COMPENSATING: DeploymentState.COMPENSATING,
    SagaState.NEEDS_ATTENTION: DeploymentState.NEEDS_ATTENTION,
    SagaState.DONE: DeploymentState.DEPLOYED,
    SagaState.FAILED: DeploymentState.FAILED,
}
_RETIRING: Final = {
    SagaState.RUNNING: DeploymentState.RETIRING,
    SagaState.NEEDS_ATTENTION: DeploymentState.NEEDS_ATTENTION,
    SagaState.DONE: DeploymentState.RETIRED,
}
_TOLD: Final = frozenset(
    {DeploymentState.DEPLOYED, DeploymentState.FAILED, DeploymentState.RETIRED, DeploymentState.NEEDS_ATTENTION}
)


class Deployments:
    """Begins, returns and resumes deployments."""

    def __init__(
        self,
        ipas: IpaRepository,
        deployments: DeploymentRepository,
        sagas: Sagas,
        rollout: Rollout,
        *,
        deadline_seconds: float,
    ) -> None:
        self._ipas = ipas
        self._deployments = deployments
        self._sagas = sagas
        self._deploy: Final = Plan(
            kind="deploy_ipa",
            steps=(
                Step(name="reserve_workflow", run=rollout.reserve_workflow, compensate=rollout.release_workflow),
                Step(name="reserve_agents", run=rollout.reserve_agents, compensate=rollout.release_agents),
                Step(name="activate", commit=partial(self._move, "activate")),
            ),
            record=self._show_deploying,
            deadline_seconds=deadline_seconds,
        )
        self._retire: Final = Plan(
            kind="retire_ipa",
            steps=(
                Step(name="release_agents", run=rollout.release_agents),
                Step(name="release_workflow", run=rollout.release_workflow),
                Step(name="retire", commit=partial(self._move, "retire")),
            ),
            record=self._show_retiring,
            deadline_seconds=deadline_seconds,
            only_forward=True,
        )

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The plans of deploying and retiring, for the worker of the service."""
        return self._deploy, self._retire

    async def deploy(self, ctx: RequestContext, ipa_id: str, *, etag: str) -> Row:
        """Begins a deployment, or returns the deployment of the same IPA that is under way.

        Raises:
            NotFoundError: the tenant has no such live IPA.
            EtagMismatchError: ``etag`` is neither the IPA's nor the one from before the deployment.
            FailedPreconditionError: the IPA is neither DRAFT nor FAILED, or names no workflow.
        """
        tx = ctx.transaction
        ipa = await self._ipas.lock(tx, ipa_id)
        if ipa["state"] == State.DEPLOYING and etag in {"", *_etags_around(ipa)}:
            return await self._deployments.get(tx, ipa["id"], ipa["deployment_id"])
        self._ipas.check_etag(ipa, etag)
        state = LIFECYCLE.apply("deploy", ipa["state"])
        require_workflow(ipa["workflow_id"])
        id = str(uuid_utils.uuid7())
        made_of = {name: ipa[name] for name in ("workflow_id", "workflow_revision", "agent_bindings")}
        data = {"ipa_id": ipa["id"], "deployment_id": id, **made_of}
        saga = await self._sagas.begin(ctx, self._deploy, id=id, data=data)
        await self._ipas.update(tx, ipa["id"], {"state": state, "deployment_id": id})
        row = {"id": id, "ipa_id": ipa["id"], **made_of, "variables": ipa["variables"], "steps": saga.steps}
        row |= {"state": DeploymentState.DEPLOYING, "deadline_time": saga.deadline_time}
        return await self._deployments.insert(tx, {**row, "created_by": ctx.principal.subject})

    async def retire(self, ctx: RequestContext, ipa_id: str, *, etag: str) -> Row:
        """Begins to retire the last deployment, or returns it while retiring is under way.

        A deployment that is under way is cancelled first: what it did is released as after any other.

        Raises:
            NotFoundError: the tenant has no such live IPA.
            EtagMismatchError: ``etag`` is set and not the IPA's.
            FailedPreconditionError: the IPA is DRAFT or RETIRED.
            AbortedError: another call began to deploy it meanwhile.
        """
        tx = ctx.transaction
        before = await self._ipas.get(tx, ipa_id)
        cancelled = before["deployment_id"] if before["state"] == State.DEPLOYING else None
        if cancelled:
            # The saga before the IPA, as its worker locks them: otherwise both could wait for each other.
            await self._sagas.cancel(tx, cancelled)
        ipa = await self._ipas.lock(tx, ipa_id, etag=etag)
        if ipa["state"] == State.DEPLOYING and ipa["deployment_id"] != cancelled:
            raise AbortedError
        LIFECYCLE.apply("retire", ipa["state"])
        deployment = await self._deployments.get(tx, ipa["id"], ipa["deployment_id"])
        if deployment["retire_steps"]:
            return deployment
        data = {"ipa_id": ipa["id"], "deployment_id": deployment["id"]}
        saga = await self._sagas.begin(ctx, self._retire, id=_retirement(deployment["id"]), data=data)
        await self._ipas.update(tx, ipa["id"], {"deployment_id": deployment["id"]})
        progress = {"state": DeploymentState.RETIRING, "retire_steps": saga.steps, **_times(saga)}
        return await self._deployments.update(tx, deployment["id"], progress)

    async def resume(self, transaction: Transaction, ipa_id: str, id: str) -> Row:
        """Lets a deployment that needs attention try again, and returns it; any other does not change.

        Raises:
            NotFoundError: the tenant has no such IPA, or the IPA has no such deployment.
        """
        deployment = await self._deployments.get(transaction, ipa_id, id)
        if deployment["state"] != DeploymentState.NEEDS_ATTENTION:
            return deployment
        retires = bool(deployment["retire_steps"])
        plan, saga = (self._retire, _retirement(deployment["id"])) if retires else (self._deploy, deployment["id"])
        await self._sagas.resume(transaction, plan, saga)
        return await self._deployments.get(transaction, ipa_id, id)

    async def _show_deploying(self, transaction: Transaction, saga: Saga) -> None:
        revision = saga.data["workflow_revision"]
        progress = {"state": _DEPLOYING[saga.state], "steps": saga.steps, "workflow_revision": revision}
        row = await self._deployments.update(transaction, saga.data["deployment_id"], progress | _times(saga))
        if saga.state is SagaState.FAILED:
            await self._move("fail", transaction, saga)
        _tell(transaction, saga, row)

    async def _show_retiring(self, transaction: Transaction, saga: Saga) -> None:
        progress = {"state": _RETIRING[saga.state], "retire_steps": saga.steps, **_times(saga)}
        row = await self._deployments.update(transaction, saga.data["deployment_id"], progress)
        _tell(transaction, saga, row)

    async def _move(self, verb: str, transaction: Transaction, saga: Saga) -> None:
        await self._ipas.move(transaction, saga.data["ipa_id"], verb)


def _times(saga: Saga) -> dict[str, int | None]:
    return {"deadline_time": saga.deadline_time, "next_attempt_time": saga.next_attempt_time}


def _tell(transaction: Transaction, saga: Saga, deployment: Row) -> None:
    """Writes the business event of the end of a deployment after the commit (ADR 29)."""
    if deployment["state"] in _TOLD:
        event = partial(
            record_business_event,
            f"deployment.{deployment['state'].lower()}",
            ResourceInfo("deployment", deployment["id"]),
            etag=row_etag(deployment),
            tenant_id=saga.tenant_id,
            actor=saga.subject,
            request_id=saga.id,
        )
        transaction.on_commit(event)


def _retirement(deployment_id: str) -> str:
    """Returns the id of the saga that retires a deployment: always the same id, so there is only one such saga."""
    return str(uuid5(UUID(deployment_id), "retire"))


def _etags_around(ipa: Mapping[str, Any]) -> set[str]:
    """Returns the etags of a DEPLOYING IPA: the present one and, unless it was renamed, the one before."""
    return {row_etag(ipa), row_etag({"version": ipa["version"] - 1})}
