"""A service in this process: real interceptors, real Postgres, real serialisation; only TLS is tested elsewhere."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography.fernet import Fernet
from pydantic import SecretStr

from api_common.server import RunningServer, Service, running
from api_common.settings import (
    ApiKeySettings,
    AuthSettings,
    DatabaseSettings,
    LogSettings,
    PaginationSettings,
    ServerSettings,
    Settings,
    TlsSettings,
)
from api_common.testing.database import TestDatabase
from api_common.testing.identity import AUDIENCE, ISSUER, PEPPER, Identity


@dataclass(frozen=True, slots=True)
class TestService:
    """A service that answers on loopback."""

    __test__ = False

    channel: grpc.aio.Channel
    """Leads to the service, without TLS."""
    server: RunningServer


def settings_for(
    database: TestDatabase, identity: Identity, *, siblings: Mapping[str, str] | None = None, pool_size: int = 5
) -> Settings:
    """Returns the settings of a service under test: free ports, no TLS, no waiting before it stops."""
    nowhere = Path("unused")
    return Settings(
        server=ServerSettings(
            host="127.0.0.1",
            grpc_port=0,
            operations_port=0,
            reflection_enabled=True,
            drain_seconds=5,
            drain_delay_seconds=0,
            # No test finds that its rows are gone.
            reap_interval_seconds=3600,
        ),
        database=DatabaseSettings(url=SecretStr(database.url), pool_size=pool_size),
        tls=TlsSettings(certificate_path=nowhere, private_key_path=nowhere, ca_path=nowhere),
        auth=AuthSettings(
            issuer=ISSUER,
            audience=AUDIENCE,
            jwks_path=identity.jwks_path,
            internal_jwks_path=identity.internal_jwks_path,
        ),
        pagination=PaginationSettings(keys=(SecretStr(Fernet.generate_key().decode()),)),
        log=LogSettings(level="warning"),
        siblings=siblings or {},
        api_keys=ApiKeySettings(pepper=(SecretStr(PEPPER),), signing_key_path=identity.signing_key_path),
    )


@asynccontextmanager
async def running_service(service: Service, settings: Settings) -> AsyncIterator[TestService]:
    """Starts ``service`` on a free port and yields a channel to it."""
    async with (
        running(service, settings, credentials=None) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
    ):
        yield TestService(channel, server)
