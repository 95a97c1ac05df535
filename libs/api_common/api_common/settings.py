"""The settings of a process, read once from its environment: `<SERVICE>_<CONCERN>_<NAME>_<UNIT>`.

Settings are frozen. Missing and malformed ones stop the process, which reports all of them at once.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class SettingsError(Exception):
    """The environment is incomplete; the message lists every variable that is missing or malformed."""


class _Concern(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="ignore")


_SECRETS = Path("/run/secrets")
"""Where a variable may be a file of its name instead: error reports show an environment, no files."""
ConcernT = TypeVar("ConcernT", bound=_Concern)


def _split(value: object) -> object:
    """Splits a comma-separated text."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value


_CommaSeparated = (NoDecode, BeforeValidator(_split))
_Limit = Annotated[str, Field(pattern=r"^([^/=]+/)?[a-z_]+=[0-9]{1,9}$")]


class ServerSettings(_Concern):
    """Ports, and how the process stops."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod is reached from outside; mTLS guards the port
    """The address to listen on."""
    grpc_port: int
    """The port of the API; 0 takes a free one."""
    operations_port: int
    """The port of `/livez`, `/readyz` and `/metrics`; 0 takes a free one."""
    reflection_enabled: bool = False
    """Whether gRPC reflection answers."""
    drain_seconds: float = Field(default=28, gt=0, le=30)
    """The most time from SIGTERM to exit; at most the 30 s after which Kubernetes kills."""
    drain_delay_seconds: float = Field(default=2, ge=0)
    """How long new calls are still served after readiness is off, so that balancers notice."""
    reap_interval_seconds: float = Field(default=60, gt=0)
    """The mean time between two deletions of expired idempotency keys and old changes."""
    internal_callers: Annotated[tuple[str, ...], *_CommaSeparated] = ()
    """The services that may call internal methods, comma-separated, by the names in their certificates."""


class DatabaseSettings(_Concern):
    """The connection to the database."""

    url: SecretStr
    """The URL for the application role, which owns nothing."""
    pool_size: int = Field(default=10, ge=1, le=100)
    """The most connections of this process."""
    acquire_timeout_seconds: float = Field(default=1, gt=0)
    """How long a request waits for a free connection before it fails."""
    tenant_connections: int = Field(default=4, ge=1)
    """The most connections that one tenant holds; well below the size of the pool, because others get the rest."""


class TlsSettings(_Concern):
    """The files for mutual TLS between the edge and the services."""

    certificate_path: Path
    """The certificate chain of this process, PEM."""
    private_key_path: Path
    """The private key, PEM."""
    ca_path: Path
    """The authority that signs the certificates of peers, PEM."""

    @property
    def file_versions(self) -> tuple[int, ...]:
        """A value that changes when any of the files is replaced."""
        return tuple(path.stat().st_mtime_ns for path in (self.certificate_path, self.private_key_path, self.ca_path))


class AuthSettings(_Concern):
    """The tokens that are accepted."""

    issuer: str
    """The exact `iss`."""
    audience: str
    """The exact `aud`."""
    jwks_path: Path | None = None
    """A file of the issuer's public keys (RFC 7517); without it they are found by OIDC discovery."""
    claims: Literal["generic", "keycloak", "auth0"] = "generic"
    """The claims in which the issuer puts tenant and roles."""
    internal_jwks_path: Path | None = None
    """A file of the public keys for the tokens that replace API keys; without it these tokens are refused."""


class PaginationSettings(_Concern):
    """The keys that seal page tokens."""

    keys: Annotated[tuple[SecretStr, ...], *_CommaSeparated, Field(min_length=1)]
    """Fernet keys, comma-separated: the first one seals, all of them open."""


class ApiKeySettings(_Concern):
    """The secrets for API keys, of the service that issues them."""

    pepper: Annotated[tuple[SecretStr, ...], *_CommaSeparated, Field(min_length=1)]
    """Keys of the stored hashes, comma-separated, 32 characters or more each: the first hashes, all verify."""
    signing_key_path: Path
    """The key that signs the tokens in place of API keys; ECDSA P-256, PEM."""

    @field_validator("pepper")
    @classmethod
    def _check(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 32 for key in value):
            raise ValueError("must be 32 characters or more")
        return value


class TelemetrySettings(_Concern):
    """The export of traces and metrics; metrics can be scraped, too."""

    otlp_endpoint: str = Field(default="", pattern=r"^(https?://[^/\s]+)?$")
    """`http://host:port` of an OTLP collector (gRPC); empty exports nothing."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """The share of sampled traces among those that begin here; the edge decides for calls through it."""
    metrics_interval_seconds: float = Field(default=30, gt=0)
    """The time between two exports of metrics."""


class WatchSettings(_Concern):
    """The life of watches, and how long changes are kept."""

    retention_seconds: float = Field(default=86_400, gt=0)
    """How long changes are kept; no resume token may be older."""
    heartbeat_seconds: float = Field(default=30, gt=0, le=120)
    """The longest silence on a watch; below every idle time-out between client and service."""
    max_age_seconds: float = Field(default=3600, gt=0, le=7000)
    """How long a watch lives, plus or minus a tenth, before the client must resume it."""
    stall_seconds: float = Field(default=30, gt=0)
    """How long a client may leave a message unread before its watch ends."""


class SharesSettings(_Concern):
    """What one tenant, and one principal of it, may hold of a process at the same time."""

    tenant_calls: int = Field(default=512, ge=1)
    """The most calls under way, without watches, of all principals of a tenant."""
    principal_calls: int = Field(default=256, ge=1)
    """The most calls under way, without watches, of one principal."""
    tenant_turns: int = Field(default=8, ge=1)
    """The most calls of a tenant that are worked on at once; the others wait in line, until their deadlines."""
    tenant_watches: int = Field(default=1500, ge=1)
    """The most open watches of all principals of a tenant."""
    principal_watches: int = Field(default=1000, ge=1)
    """The most open watches of one principal."""
    tenant_bytes: int = Field(default=67_108_864, ge=16_777_216)
    """The most bytes of requests and unread answers of a tenant at once; messages of up to 64 KiB do not count."""
    principal_bytes: int = Field(default=33_554_432, ge=16_777_216)
    """The most bytes of requests and unread answers of one principal; messages of up to 64 KiB do not count."""
    tenant_answers: int = Field(default=8_388_608, ge=1)
    """The bytes of a tenant's answers a second beyond which its calls wait; answers of up to 64 KiB do not count."""
    principal_answers: int = Field(default=4_194_304, ge=1)
    """The bytes of a principal's answers a second beyond which its calls wait; answers of up to 64 KiB do not count."""


class QuotaSettings(_Concern):
    """The most that a tenant may store (ADR 37)."""

    limit: int = Field(default=100_000, ge=0, le=1_000_000_000)
    """The most live resources of each collection of a tenant."""
    limits: Annotated[tuple[_Limit, ...], *_CommaSeparated] = ()
    """Other limits, comma-separated: `collection=number` for every tenant, `tenant/collection=number` for one."""

    @cached_property
    def by_name(self) -> dict[str, int]:
        """All limits: by `tenant/collection`, by `collection`, and by `*` for every other collection."""
        parts = (one.rpartition("=") for one in self.limits)
        return {"*": self.limit, **{name: int(number) for name, _, number in parts}}

    def of(self, tenant_id: str) -> dict[str, int]:
        """Returns the limits of a tenant by collection, and by `*` for every other collection."""
        common = {name: number for name, number in self.by_name.items() if "/" not in name}
        own = f"{tenant_id}/"
        return common | {name[len(own) :]: number for name, number in self.by_name.items() if name.startswith(own)}


class SagaSettings(_Concern):
    """The work that spans services."""

    deadline_seconds: float = Field(default=900, gt=0, le=86_400)
    """How long what may pass is waited out, such as a sibling that is away; a compensation has as long once more."""


class CacheSettings(_Concern):
    """The answers that a process keeps for callers who accept old ones (ADR 46)."""

    bytes: int = Field(default=33_554_432, ge=0)
    """The most bytes of kept answers; 0 keeps none, so that every answer is current."""


class LogSettings(_Concern):
    """The log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a service process."""

    server: ServerSettings
    database: DatabaseSettings
    tls: TlsSettings
    auth: AuthSettings
    pagination: PaginationSettings
    log: LogSettings
    siblings: Mapping[str, str]
    """`host:port` of each service that this one calls."""
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    """No export by default."""
    watch: WatchSettings = field(default_factory=WatchSettings)
    """The defaults suit production."""
    shares: SharesSettings = field(default_factory=SharesSettings)
    """The defaults suit processes of 512 MiB."""
    quota: QuotaSettings = field(default_factory=QuotaSettings)
    """The same for every tenant by default."""
    sagas: SagaSettings = field(default_factory=SagaSettings)
    """A quarter of an hour by default."""
    cache: CacheSettings = field(default_factory=CacheSettings)
    """The default suits processes of 512 MiB."""
    api_keys: ApiKeySettings | None = None
    """Set in the service that issues API keys."""

    @classmethod
    def load(cls, service: str, *, siblings: Sequence[str] = (), api_keys: bool = False) -> Self:
        """Reads the environment of ``service``, which calls ``siblings``.

        Args:
            api_keys: whether the service issues API keys.

        Raises:
            SettingsError: variables are missing or malformed; the message names all of them.
        """
        faults: list[str] = []
        settings = cls(
            server=_read(ServerSettings, f"{service}_SERVER_", faults),
            database=_read(DatabaseSettings, f"{service}_DATABASE_", faults),
            tls=_read(TlsSettings, f"{service}_TLS_", faults),
            auth=_read(AuthSettings, f"{service}_AUTH_", faults),
            pagination=_read(PaginationSettings, f"{service}_PAGINATION_", faults),
            log=_read(LogSettings, f"{service}_LOG_", faults),
            telemetry=_read(TelemetrySettings, f"{service}_TELEMETRY_", faults),
            watch=_read(WatchSettings, f"{service}_WATCH_", faults),
            shares=_read(SharesSettings, f"{service}_SHARES_", faults),
            quota=_read(QuotaSettings, f"{service}_QUOTA_", faults),
            sagas=_read(SagaSettings, f"{service}_SAGA_", faults),
            cache=_read(CacheSettings, f"{service}_CACHE_", faults),
            api_keys=_read(ApiKeySettings, f"{service}_APIKEYS_", faults) if api_keys else None,
            siblings={name: _address(f"{service}_CLIENTS_{name}_ADDRESS".upper(), faults) for name in siblings},
        )
        if faults:
            raise SettingsError("\n".join(["The environment is incomplete:", *(f"  {fault}" for fault in faults)]))
        return settings


def _read(concern: type[ConcernT], prefix: str, faults: list[str]) -> ConcernT:
    prefix = prefix.upper()
    try:
        # Arguments of BaseSettings, not fields. It warns of a directory that does not exist.
        return concern(_env_prefix=prefix, _secrets_dir=_SECRETS if _SECRETS.is_dir() else None)  # type: ignore[call-arg]
    except ValidationError as error:
        faults += [f"{prefix}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        return concern.model_construct()  # never used: `faults` is not empty


def _address(name: str, faults: list[str]) -> str:
    address = os.environ.get(name, "")
    if not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
        faults.append(f"{name}: must be host:port")
    return address


def load_owner_url(service: str) -> str:
    """Reads the URL for the owner role, the only setting that `migrate` needs.

    Raises:
        SettingsError: it is missing.
    """
    name = f"{service}_DATABASE_OWNER_URL".upper()
    url = os.environ.get(name)
    if not url:
        raise SettingsError(f"The environment is incomplete:\n  {name}: required to migrate the schema")
    return url
