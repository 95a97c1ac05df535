"""A service in this process: real interceptors, real Postgres, real serialisation; only TLS is tested elsewhere."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from cryptography.fernet import Fernet
from pydantic import SecretStr

from api_common.authn import server_credentials
from api_common.authz import Directory, StoredUser
from api_common.call import CallContext
from api_common.rpc import MAX_RESPONSE_BYTES
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

# A client that wants large answers says so: without it gRPC accepts 4 MiB.
_OPTIONS: Final = (("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),)


@dataclass(frozen=True, slots=True)
class TestService:
    """A service that answers on loopback."""

    __test__ = False

    channel: grpc.aio.Channel
    """Leads to the service, without TLS."""
    server: RunningServer


def settings_for(
    database: TestDatabase,
    identity: Identity,
    *,
    siblings: Mapping[str, str] | None = None,
    tls: TlsSettings | None = None,
    pool_size: int = 5,
    internal_callers: Sequence[str] = (),
) -> Settings:
    """Returns the settings of a service under test: free ports, no waiting before it stops."""
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
            internal_callers=tuple(internal_callers),
        ),
        database=DatabaseSettings(
            url=SecretStr(database.url), pool_size=pool_size, tenant_connections=max(4, pool_size - 1)
        ),
        tls=tls or tls_of(Path("unused"), "unused"),
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


def tls_of(folder: Path, name: str) -> TlsSettings:
    """Returns the settings of a process whose certificate is in ``folder``."""
    return TlsSettings(
        certificate_path=folder / f"{name}.pem", private_key_path=folder / f"{name}.key", ca_path=folder / "ca.pem"
    )


class NoStoredUsers:
    """A directory of nobody: the roles of every token count."""

    async def find(self, ctx: CallContext) -> StoredUser | None:
        """Returns None."""
        return None


@asynccontextmanager
async def running_service(
    service: Service, settings: Settings, *, caller_tls: TlsSettings | None = None
) -> AsyncIterator[TestService]:
    """Starts ``service`` on a free port and yields a channel to it.

    No service but users itself knows stored users then: what is internal, as asking for them is, needs TLS.

    Args:
        caller_tls: what it calls siblings with, which are guarded then.
    """
    directory = Directory(NoStoredUsers()) if service.stored_users is None else None
    async with (
        running(service, settings, credentials=None, directory=directory, caller_tls=caller_tls) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}", options=_OPTIONS) as channel,
    ):
        yield TestService(channel, server)


@asynccontextmanager
async def guarded_service(
    service: Service, settings: Settings, *, directory: Directory | None = None
) -> AsyncIterator[str]:
    """Starts ``service`` on a free port, behind mutual TLS as in production, and yields its address."""
    credentials = server_credentials(settings.tls)
    async with running(service, settings, credentials=credentials, directory=directory) as server:
        yield f"127.0.0.1:{server.grpc_port}"
