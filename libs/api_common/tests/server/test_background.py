"""What works in the background of a service goes on after it has died, whatever it died of (fault F13)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.authn import DiscoveredKeySet, key_sets
from api_common.db import Database
from api_common.sagas import SagaWorker
from api_common.server import authentication, main, running_server, supervisor
from api_common.settings import Settings, TelemetrySettings
from api_common.telemetry import Metrics
from api_common.testing import Caller, Identity, TestDatabase, TestService, refused, running_service, settings_for
from api_common.watch import ChangeNotifier
from grpc import StatusCode

from libs.api_common.tests.example.service import SERVICE
from libs.api_common.tests.issuer import Issuer
from libs.api_common.tests.server.test_main import NOT_SERVING, SERVING, operations, until_health

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

PATIENCE_SECONDS = 10


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(running_server, "_READINESS_INTERVAL_SECONDS", 0.1)


@pytest.fixture
def settings(users_database: TestDatabase, identity: Identity) -> Settings:
    # Nobody listens there, which an export survives.
    telemetry = TelemetrySettings(otlp_endpoint="http://127.0.0.1:1", metrics_interval_seconds=3600)
    return replace(settings_for(users_database, identity), telemetry=telemetry)


def dying_once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> asyncio.Event:
    """Lets the first run of a coroutine function raise, a method's once per object; the next one sets the event."""
    run: Callable[..., Awaitable[Any]] = getattr(owner, name)
    died, again = set[int](), asyncio.Event()

    async def mortal(*args: Any, **kwargs: Any) -> Any:
        # Other services of this process have such tasks, too.
        one = id(args[0]) if isinstance(owner, type) else 0
        if one not in died:
            died.add(one)
            raise ValueError("a defect")
        again.set()
        return await run(*args, **kwargs)

    monkeypatch.setattr(owner, name, mortal)
    return again


async def restarts(service: TestService) -> dict[str, float]:
    """Returns what the metric says of each task."""
    async with operations(service.server) as http:
        text = (await http.get("/metrics")).text
    found = re.findall(r'^background_task_restarts_total\{task="(.+)"\} (.+)$', text, re.MULTILINE)
    return {task: float(count) for task, count in found}


@pytest.mark.parametrize(
    ("task", "owner", "name"),
    [
        ("readiness", Database, "ping"),
        ("loop lag", Metrics, "watch_loop"),
        ("reaper", main, "reap_forever"),
        ("change notifier", ChangeNotifier, "run"),
        ("change notifier", ChangeNotifier, "_listen"),
        ("key refresh", main, "refresh_forever"),
        ("metrics export", Metrics, "export_forever"),
        ("saga worker", SagaWorker, "run_forever"),
        ("saga worker", SagaWorker, "_count_forever"),
    ],
)
async def test_a_task_that_died_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, task: str, owner: object, name: str
) -> None:
    again = dying_once(monkeypatch, owner, name)
    async with running_service(replace(SERVICE, plans=lambda _: ()), settings) as service:
        await asyncio.wait_for(again.wait(), PATIENCE_SECONDS)
        await until_health(service, SERVING)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (counted := await restarts(service)).pop(task) != 1:
                await asyncio.sleep(0.01)
    assert set(counted.values()) == {0}
    assert set(counted) | {task} == {
        "readiness", "loop lag", "reaper", "change notifier", "key refresh", "metrics export", "saga worker",
    }  # fmt: skip


async def test_a_service_is_not_ready_while_nothing_watches_its_database(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ping, broken = Database.ping, False

    async def breaking(self: Database, *, timeout_seconds: float) -> bool:
        if broken:
            raise ValueError("a defect")
        return await ping(self, timeout_seconds=timeout_seconds)

    monkeypatch.setattr(Database, "ping", breaking)
    async with running_service(SERVICE, settings) as service:
        await until_health(service, SERVING)
        broken = True
        await until_health(service, NOT_SERVING)
        async with operations(service.server) as http:
            assert (await http.get("/readyz")).status_code == 503
        broken = False
        await until_health(service, SERVING)


class TestDiscoveredKeys:
    @pytest.fixture
    async def service(
        self, settings: Settings, issuer: Issuer, identity: Identity, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[TestService]:
        """A service whose issuer publishes a place for its keys that is none, and is asked without a pause."""
        monkeypatch.setattr(key_sets, "MIN_FETCH_INTERVAL_SECONDS", 0)
        monkeypatch.setattr(key_sets.KeySet, "MAX_AGE_SECONDS", 0.01)
        issuer.keys = identity.key_set["keys"]
        issuer.jwks_uri = "http://issuer\0.example/jwks"
        auth = settings.auth.model_copy(update={"issuer": issuer.url, "jwks_path": None})
        async with running_service(SERVICE, replace(settings, auth=auth)) as service:
            yield service

    @pytest.fixture
    def caller(self, issuer: Issuer, identity: Identity, tenant_id: str) -> Caller:
        return identity.caller(tenant_id, "admin", iss=issuer.url)

    async def test_that_cannot_be_fetched_keep_a_service_unready_and_are_found_once_they_can(
        self, service: TestService, issuer: Issuer, caller: Caller
    ) -> None:
        users: UserServiceAsyncStub = UserServiceStub(service.channel)
        asked = issuer.discoveries
        # Nobody is told that a token is bad which nobody can look at.
        with refused(StatusCode.UNAVAILABLE, "UNAVAILABLE"):
            await users.ListUsers(pb.ListUsersRequest(), metadata=caller.metadata)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while issuer.discoveries < asked + 3:
                await asyncio.sleep(0.01)
        assert (await restarts(service))["key refresh"] == 0
        async with operations(service.server) as http:
            assert (await http.get("/readyz")).status_code == 503
        issuer.jwks_uri = f"{issuer.url}jwks"
        await until_health(service, SERVING)
        await users.ListUsers(pb.ListUsersRequest(), metadata=caller.metadata)

    async def test_are_closed_with_the_service(
        self, settings: Settings, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[DiscoveredKeySet] = []

        class Observed(DiscoveredKeySet):
            def __init__(self, issuer: str) -> None:
                super().__init__(issuer)
                opened.append(self)

        monkeypatch.setattr(authentication, "DiscoveredKeySet", Observed)
        auth = settings.auth.model_copy(update={"issuer": issuer.url, "jwks_path": None})
        async with running_service(SERVICE, replace(settings, auth=auth)):
            assert [keys._client.is_closed for keys in opened] == [False]
        assert [keys._client.is_closed for keys in opened] == [True]
