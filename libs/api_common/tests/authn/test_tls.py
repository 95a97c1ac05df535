"""Mutual TLS: who may connect, and certificates that change while the server runs."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from api_common.authn.tls import channel_credentials, server_credentials
from api_common.settings import TlsSettings
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tools.secrets import certificates

Ask = Callable[..., Awaitable[None]]
"""Calls the server over a new connection: `ask(credentials, …options)`."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates of an authority and all processes."""
    folder = tmp_path_factory.mktemp("certificates")
    certificates.ensure(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "certificates"))


@pytest.fixture
async def port(folder: Path) -> AsyncIterator[int]:
    """A server with the certificate of users; it answers health checks only."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    bound = server.add_secure_port("127.0.0.1:0", server_credentials(settings(folder, "users")))
    await server.start()
    yield bound
    await server.stop(None)


@pytest.fixture
def ask(port: int) -> Ask:
    async def ask_once(credentials: grpc.ChannelCredentials | None, *options: tuple[str, Any]) -> None:
        async with opened(port, credentials, *options) as channel:
            await check(channel)

    return ask_once


def settings(folder: Path, name: str) -> TlsSettings:
    return TlsSettings(
        certificate_path=folder / f"{name}.pem", private_key_path=folder / f"{name}.key", ca_path=folder / "ca.pem"
    )


def client(folder: Path, name: str = "edge") -> grpc.ChannelCredentials:
    return channel_credentials(settings(folder, name))


def opened(port: int, credentials: grpc.ChannelCredentials | None, *options: tuple[str, Any]) -> grpc.aio.Channel:
    # Channels of one process share connections unless they are told not to.
    own = [("grpc.use_local_subchannel_pool", 1), *options]
    if credentials is None:
        return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own)
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=own)


async def check(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def renew(folder: Path) -> None:
    """Makes a new authority, and everything anew."""
    for path in folder.iterdir():
        path.unlink()
    certificates.ensure(folder)


async def assert_refused(connecting: Awaitable[None]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connecting
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


class TestClients:
    async def test_with_a_certificate_of_our_authority_are_served(self, folder: Path, ask: Ask) -> None:
        for name in certificates.NAMES:
            await ask(client(folder, name))

    async def test_without_a_certificate_are_refused(self, folder: Path, ask: Ask) -> None:
        await assert_refused(ask(grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes())))

    async def test_without_tls_are_refused(self, ask: Ask) -> None:
        await assert_refused(ask(None))

    async def test_with_a_certificate_of_another_authority_are_refused(
        self, folder: Path, tmp_path: Path, ask: Ask
    ) -> None:
        certificates.ensure(tmp_path / "other")
        shutil.copy(folder / "ca.pem", tmp_path / "other" / "ca.pem")
        await assert_refused(ask(client(tmp_path / "other")))

    async def test_with_an_expired_certificate_are_refused(
        self, folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(certificates, "LEAF_DAYS", 0)
        certificates.ensure(folder)
        (folder / "edge.key").unlink()
        certificates.ensure(folder)
        await assert_refused(ask(client(folder)))

    async def test_refuse_a_server_of_another_name(self, folder: Path, ask: Ask) -> None:
        await ask(client(folder), ("grpc.ssl_target_name_override", "users"))
        await assert_refused(ask(client(folder), ("grpc.ssl_target_name_override", "agents")))


class TestRotation:
    async def test_is_seen_by_new_connections_and_not_by_old_ones(self, folder: Path, port: int, ask: Ask) -> None:
        before = client(folder)
        async with opened(port, before) as kept:
            await check(kept)
            renew(folder)
            await ask(client(folder))
            await assert_refused(ask(before))
            await check(kept)

    async def test_that_is_half_done_or_broken_leaves_the_server_as_it_was(self, folder: Path, ask: Ask) -> None:
        good, whole = client(folder), (folder / "users.pem").read_bytes()
        for content in (b"", b"not a certificate", whole[: len(whole) // 2]):
            (folder / "users.pem").write_bytes(content)
            await ask(good)
        (folder / "users.pem").unlink()
        await ask(good)
        (folder / "users.pem").write_bytes(whole)
        await ask(good)

    async def test_under_load_loses_no_connection(self, folder: Path, ask: Ask) -> None:
        """The leaf changes, the authority stays: the usual case."""
        trusted = client(folder)
        going = True

        async def load() -> int:
            done = 0
            while going:
                await ask(trusted)
                done += 1
            return done

        clients = [asyncio.create_task(load()) for _ in range(3)]
        for _ in range(5):
            (folder / "users.key").unlink()
            certificates.ensure(folder)
            await ask(trusted)
        going = False
        assert all(await asyncio.gather(*clients))
