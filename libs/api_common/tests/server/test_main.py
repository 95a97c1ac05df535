"""The life of a service process: it starts or says why not, tells whether it is ready, and leaves in order."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub
from api_common.call import RequestContext
from api_common.db import schema_head
from api_common.server import RunningServer, Service, StartError, grpc_server, running_server
from api_common.server.main import run_service, running
from api_common.settings import DatabaseSettings, PaginationSettings, Settings
from api_common.testing import (
    NEVER,
    Caller,
    Identity,
    TestDatabase,
    TestService,
    provisioned,
    refused,
    running_service,
    settings_for,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr

from libs.api_common.tests.example.service import CONTRACT, SERVICE, Users, create_user
from libs.api_common.tests.proxy import Proxy

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

S = grpc.StatusCode
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
PATIENCE_SECONDS = 10


@pytest.fixture
def settings(users_database: TestDatabase, identity: Identity) -> Settings:
    return settings_for(users_database, identity)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def start_error(settings: Settings, service: Service = SERVICE) -> str:
    with pytest.raises(StartError) as caught:
        async with running(service, settings, credentials=None):
            pass
    return str(caught.value)


def with_url(settings: Settings, url: str) -> Settings:
    return replace(settings, database=DatabaseSettings(url=SecretStr(url), pool_size=2))


def with_server(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, server=settings.server.model_copy(update=changes))


class TestStart:
    async def test_needs_a_migrated_schema(
        self, settings: Settings, postgres_url: str, users_database: TestDatabase
    ) -> None:
        name = f"example_empty_{os.getpid()}"
        urls = await provisioned(postgres_url, SERVICE.name, database=name)
        message = await start_error(with_url(settings, urls.application))
        assert message == (
            f"the schema is at revision None, this release needs {schema_head(SERVICE.migrations)}."
            " Run `python -m example_service migrate`."
        )

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://users_app:hunter2@127.0.0.1:1/users",
            "postgresql://users_app:hunter2@no-such-host.invalid/users",
            "mysql://users_app:hunter2@127.0.0.1/users",
            "not a url",
        ],
    )
    async def test_needs_a_database(self, settings: Settings, url: str) -> None:
        message = await start_error(with_url(settings, url))
        assert message.startswith("cannot reach the database: ")
        assert "EXAMPLE_DATABASE_URL" in message
        assert "hunter2" not in message

    async def test_needs_a_database_that_exists(self, settings: Settings, users_database: TestDatabase) -> None:
        url = users_database.url.replace("example_test", "missing")
        assert "missing" in await start_error(with_url(settings, url))

    @pytest.mark.parametrize("port", ["grpc_port", "operations_port"])
    async def test_needs_its_ports(self, settings: Settings, taken_port: int, port: str) -> None:
        message = await start_error(with_server(settings, **{port: taken_port}))
        assert str(taken_port) in message or "EXAMPLE_SERVER_OPERATIONS_PORT" in message
        assert "taken" in message or "in use" in message

    async def test_does_not_share_a_port_with_a_running_service(
        self, settings: Settings, users_service: TestService
    ) -> None:
        assert "taken" in await start_error(with_server(settings, grpc_port=users_service.server.grpc_port))

    @pytest.mark.parametrize(
        "content", [None, "", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "[]"]
    )
    async def test_needs_the_keys_of_its_issuer(self, settings: Settings, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "jwks.json"
        if content is not None:
            path.write_text(content)
        changed = replace(settings, auth=settings.auth.model_copy(update={"jwks_path": path}))
        assert (await start_error(changed)).startswith("EXAMPLE_AUTH_JWKS_PATH cannot be used: ")

    async def test_needs_usable_pagination_keys(self, settings: Settings) -> None:
        message = await start_error(replace(settings, pagination=PaginationSettings(keys=(SecretStr("hunter2"),))))
        assert message.startswith("EXAMPLE_PAGINATION_KEYS cannot be used: ")
        assert "hunter2" not in message

    async def test_leaves_nothing_open_when_it_fails(self, settings: Settings, taken_port: int) -> None:
        await start_error(with_server(settings, grpc_port=taken_port))
        # Whatever it had opened before would be reported as a leak by now.
        async with running(SERVICE, settings, credentials=None) as server:
            assert server.grpc_port > 0

    def test_says_what_it_can_be_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["example_service", "destroy"])
        with pytest.raises(SystemExit, match=r"usage: python -m example_service \[migrate\]"):
            run_service(SERVICE)

    @pytest.mark.parametrize("arguments", [[], ["migrate"]])
    def test_needs_its_settings(self, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["example_service", *arguments])
        for name in [name for name in os.environ if name.startswith("EXAMPLE_")]:
            monkeypatch.delenv(name)
        with pytest.raises(SystemExit, match="example: The environment is incomplete:\n  EXAMPLE_"):
            run_service(SERVICE)


class TestReflection:
    async def test_lists_the_contract(self, users_service: TestService) -> None:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast(Any, users_service.channel))
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        response = await call.read()
        assert CONTRACT.full_name in {service.name for service in response.list_services_response.service}

    async def test_can_be_switched_off(self, settings: Settings) -> None:
        async with running_service(SERVICE, with_server(settings, reflection_enabled=False)) as service:
            path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = service.channel.unary_unary(path)
            with refused(S.UNIMPLEMENTED, "METHOD_NOT_FOUND"):
                await call(b"")


class TestConnection:
    async def test_grows_old_so_that_callers_find_new_replicas_and_no_call_is_lost(
        self, settings: Settings, admin: Caller, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = dict(grpc_server._OPTIONS)
        assert options["grpc.max_connection_age_ms"] == 15 * 60_000
        monkeypatch.setattr(grpc_server, "_OPTIONS", (*(options | {"grpc.max_connection_age_ms": 100}).items(),))
        async with running_service(SERVICE, settings) as service:
            stub: UserServiceAsyncStub = UserServiceStub(service.channel)
            watch = stub.WatchUsers(pb.WatchUsersRequest(initial_state=True), metadata=admin.metadata)
            events = aiter(watch)
            assert (await anext(events)).HasField("bookmark")
            async with asyncio.timeout(PATIENCE_SECONDS):
                await service.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            user = await create_user(stub, admin)
            assert (await anext(events)).created.id == user.id
            watch.cancel()


class TestOperations:
    async def test_port_answers_probes_and_metrics(
        self, users: UserServiceAsyncStub, users_service: TestService, admin: Caller
    ) -> None:
        with refused(S.NOT_FOUND, "RESOURCE_NOT_FOUND"):
            await users.GetUser(pb.GetUserRequest(id=NEVER), metadata=admin.metadata)
        async with operations(users_service.server) as http:
            assert (await http.get("/livez")).text == "ok\n"
            assert (await http.get("/readyz?verbose")).status_code == 200
            assert (await http.get("/")).status_code == 404
            metrics = (await http.get("/metrics")).text
        labels = f'rpc_method="{CONTRACT.full_name}/GetUser",rpc_response_status_code="NOT_FOUND"'
        assert f"rpc_server_call_duration_seconds_count{{{labels}}}" in metrics
        assert "rpc_server_active_requests 0.0" in metrics

    async def test_port_tells_when_the_event_loop_is_stuck(
        self, users_service: TestService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api_common.server.operations.LIVENESS_TIMEOUT_SECONDS", 0.05)
        answered: list[int] = []

        def probe() -> None:
            answered.append(httpx.get(f"http://127.0.0.1:{users_service.server.operations_port}/livez").status_code)

        prober = asyncio.get_running_loop().run_in_executor(None, probe)
        while not answered:
            _block_for(0.01)
        await prober
        assert answered == [503]


class TestReadiness:
    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(running_server, "_READINESS_INTERVAL_SECONDS", 0.1)

    async def test_follows_the_database(self, users_database: TestDatabase, settings: Settings, admin: Caller) -> None:
        request = pb.ListUsersRequest()
        async with through_proxy(users_database, settings) as (proxy, service):
            stub: UserServiceAsyncStub = UserServiceStub(service.channel)
            await stub.ListUsers(request, metadata=admin.metadata)
            await proxy.cut()
            with refused(S.UNAVAILABLE, "UNAVAILABLE"):
                await stub.ListUsers(request, metadata=admin.metadata)
            await until_health(service, NOT_SERVING)
            async with operations(service.server) as http:
                assert (await http.get("/readyz")).status_code == 503
                assert (await http.get("/livez")).status_code == 200
            await proxy.restore()
            await until_health(service, SERVING)
            await stub.ListUsers(request, metadata=admin.metadata)

    async def test_goes_off_while_the_database_hangs_and_calls_end_by_their_deadline(
        self, users_database: TestDatabase, settings: Settings, admin: Caller
    ) -> None:
        async with through_proxy(users_database, settings) as (proxy, service):
            stub: UserServiceAsyncStub = UserServiceStub(service.channel)
            proxy.freeze()
            started = asyncio.get_running_loop().time()
            calls = [stub.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata, timeout=0.5) for _ in range(10)]
            for result in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(result, grpc.aio.AioRpcError)
                assert result.code() in {S.DEADLINE_EXCEEDED, S.UNAVAILABLE}
            assert asyncio.get_running_loop().time() - started < 2
            await until_health(service, NOT_SERVING)
            proxy.thaw()
            await until_health(service, SERVING)
            await stub.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)


class TestDrain:
    async def test_lets_running_calls_end_and_takes_no_new_ones(self, settings: Settings, admin: Caller) -> None:
        async with held(with_server(settings, drain_delay_seconds=0.3)) as (service, entered, go_on):
            stub: UserServiceAsyncStub = UserServiceStub(service.channel)
            await until_health(service, SERVING)
            watch = health_of(service).Watch(health_pb2.HealthCheckRequest(service=CONTRACT.full_name))
            assert (await watch.read()).status == SERVING
            in_flight = asyncio.ensure_future(stub.GetMe(pb.GetMeRequest(), metadata=admin.metadata))
            await entered.wait()

            drain = asyncio.create_task(service.server.drain())
            assert (await watch.read()).status == NOT_SERVING
            await stub.ListUsers(pb.ListUsersRequest(), metadata=admin.metadata)
            async with operations(service.server) as http:
                assert (await http.get("/readyz")).status_code == 503
                assert (await http.get("/livez")).status_code == 200

            await until_refused(stub, admin)
            assert not in_flight.done()
            go_on.set()
            assert (await in_flight).id == NEVER
            watch.cancel()
            await asyncio.wait_for(drain, 20)

    async def test_ends_what_does_not_end_by_itself(self, settings: Settings, admin: Caller) -> None:
        async with held(with_server(settings, drain_seconds=0.3)) as (service, entered, _):
            stub: UserServiceAsyncStub = UserServiceStub(service.channel)
            in_flight = asyncio.ensure_future(stub.GetMe(pb.GetMeRequest(), metadata=admin.metadata))
            await entered.wait()
            started = asyncio.get_running_loop().time()
            await service.server.drain()
            assert 0.2 < asyncio.get_running_loop().time() - started < 2
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await in_flight
            assert caught.value.code() is S.UNAVAILABLE


@asynccontextmanager
async def through_proxy(database: TestDatabase, settings: Settings) -> AsyncIterator[tuple[Proxy, TestService]]:
    """A users service that reaches its database through a proxy, and is ready."""
    async with (
        Proxy.before(database.url) as proxy,
        running_service(SERVICE, with_url(settings, proxy.url)) as service,
    ):
        await until_health(service, SERVING)
        yield proxy, service


@asynccontextmanager
async def held(settings: Settings) -> AsyncIterator[tuple[TestService, asyncio.Event, asyncio.Event]]:
    """A users service whose GetMe sets the first event and waits for the second."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Servicer(Users):
        async def GetMe(self, request: pb.GetMeRequest, ctx: RequestContext) -> pb.User:
            entered.set()
            await go_on.wait()
            return pb.User(id=NEVER)

    waiting = replace(SERVICE, servicers={CONTRACT: Servicer.build})
    async with running_service(waiting, settings) as service:
        yield service, entered, go_on


@asynccontextmanager
async def operations(server: RunningServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.operations_port}", verify=False) as http:
        yield http


def health_of(service: TestService) -> Any:
    """Returns the stub, of which the published types know the blocking half only."""
    return health_pb2_grpc.HealthStub(service.channel)


async def until_health(service: TestService, status: int) -> None:
    """Returns once both names of the service have ``status``."""
    stub = health_of(service)

    async def statuses() -> set[int]:
        requests = [health_pb2.HealthCheckRequest(service=name) for name in ("", CONTRACT.full_name)]
        return {(await stub.Check(request)).status for request in requests}

    async with asyncio.timeout(PATIENCE_SECONDS):
        while await statuses() != {status}:
            await asyncio.sleep(0.01)


async def until_refused(stub: UserServiceAsyncStub, caller: Caller) -> None:
    """Returns once a new call finds nobody."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                await stub.ListUsers(pb.ListUsersRequest(), metadata=caller.metadata)
            except grpc.aio.AioRpcError as error:
                # gRPC cancels a call that comes in at the very moment.
                assert error.code() in {S.UNAVAILABLE, S.CANCELLED}  # noqa: PT017 - it ends a loop
                return
            await asyncio.sleep(0.01)


def _block_for(seconds: float) -> None:
    """Keeps the event loop from doing anything."""
    time.sleep(seconds)
