"""What a process does that works on deployments and may die at any instant."""

import asyncio
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import uvloop
from api_common.db import Database
from api_common.listing import PageTokens
from api_common.sagas import SagaMetrics, Sagas
from api_common.settings import DatabaseSettings, SagaSettings
from api_common.siblings import Siblings
from api_common.telemetry import Metrics, configure_logging
from api_common.testing import tls_of
from cryptography.fernet import Fernet
from ipas_service.deployments import Deployments
from ipas_service.repository import DeploymentRepository, IpaRepository
from ipas_service.rollout import Rollout
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from services.ipas.tests.stage import Instants, MortalWorker, with_effects


class FatalInstants(Instants):
    """Ends the process as kill -9 would: no handler runs, nothing is flushed or given back."""

    def pass_by(self) -> None:
        self.count += 1
        if self.count - 1 == self._fatal:
            os._exit(9)


class Event(Protocol):
    """What tells another process something."""

    def set(self) -> None: ...


def live(settings: dict[str, Any], works: Event) -> None:
    """Works until it is killed.

    Args:
        works: told when it looks for sagas.
    """
    configure_logging("chaos", "critical")
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_work(settings, works))


async def _work(settings: dict[str, Any], works: Event) -> None:
    registry = CollectorRegistry()
    # It connects when it first looks: Postgres may be on its knees just now.
    database = Database(DatabaseSettings(url=SecretStr(settings["url"])), application_name="worker")
    siblings = Siblings(settings["siblings"], tls_of(Path(settings["certificates"]), "ipas"), Metrics(registry))
    tokens, sagas = PageTokens([Fernet.generate_key().decode()]), Sagas()
    deployments = Deployments(
        IpaRepository(tokens),
        DeploymentRepository(tokens),
        sagas,
        Rollout(siblings),
        deadline_seconds=SagaSettings().deadline_seconds,
    )
    instants = FatalInstants(settings["die_at"])
    plans = [with_effects(plan, instants.around) for plan in deployments.plans]
    worker = MortalWorker(
        database,
        plans,
        sagas,
        SagaMetrics(registry),
        committed=lambda: None,
        lease_seconds=settings["lease_seconds"],
    )
    worker.instants = instants
    works.set()
    await worker.run_forever()
