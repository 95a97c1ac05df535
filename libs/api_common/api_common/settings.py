"""What a process is told by its environment, read once in `__main__`: `<SERVICE>_<CONCERN>_<NAME>_<UNIT>`.

Every setting is frozen. A missing or malformed one stops the process, and all of them are reported at once.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class SettingsError(Exception):
    """The environment is incomplete; the message lists every variable that is missing or malformed."""


class _Concern(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="ignore")


ConcernT = TypeVar("ConcernT", bound=_Concern)


def _parts(value: object) -> object:
    """Splits what is comma separated."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


class ServerSettings(_Concern):
    """Addresses and the time to stop."""

    host: str = "0.0.0.0"  # noqa: S104 - a pod is reached from outside; mTLS guards the port
    """The address to listen on."""
    grpc_port: int
    """The port of the API; 0 takes a free one."""
    operations_port: int
    """The port of `/livez`, `/readyz` and `/metrics`; 0 takes a free one."""
    reflection_enabled: bool = False
    """Whether gRPC reflection answers."""
    drain_seconds: float = Field(default=28, gt=0, le=30)
    """From SIGTERM to exit at most; below the 30 s after which Kubernetes kills."""
    drain_delay_seconds: float = Field(default=2, ge=0)
    """How long new calls are still served after readiness went off, so that balancers notice."""
    reap_interval_seconds: float = Field(default=60, gt=0)
    """Between two looks for expired idempotency keys, about."""


class DatabaseSettings(_Concern):
    """Where the rows are."""

    url: SecretStr
    """Connection as the application role, which owns nothing."""
    pool_size: int = Field(default=10, ge=1, le=100)
    """Connections of this process at most."""
    acquire_timeout_seconds: float = Field(default=1, gt=0)
    """How long a request waits for a free connection before it is refused."""


class TlsSettings(_Concern):
    """Files of the mutual TLS between the edge and the services."""

    certificate_path: Path
    """Certificate chain of this process, PEM."""
    private_key_path: Path
    """Its private key, PEM."""
    ca_path: Path
    """The authority that peers must be signed by, PEM."""


class AuthSettings(_Concern):
    """Whose tokens are believed."""

    issuer: str
    """The exact `iss`."""
    audience: str
    """The exact `aud`."""
    jwks_path: Path | None = None
    """The issuer's public keys (RFC 7517) as a file; without one they are found by OIDC discovery."""
    claims: Literal["generic", "keycloak", "auth0"] = "generic"
    """Where the issuer puts tenant and roles."""
    internal_jwks_path: Path | None = None
    """The public keys of the tokens that the users service makes of API keys; without one these are refused."""


class PaginationSettings(_Concern):
    """Keys that seal page tokens."""

    keys: Annotated[tuple[SecretStr, ...], NoDecode, Field(min_length=1)]
    """Fernet keys, comma separated: the first seals, all open."""

    @field_validator("keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _parts(value)


class ApiKeySettings(_Concern):
    """Secrets behind API keys; only the service that issues them has any."""

    pepper: Annotated[tuple[SecretStr, ...], NoDecode, Field(min_length=1)]
    """Keys of the stored hashes, comma separated, 32 characters or more each: the first hashes, all verify."""
    signing_key_path: Path
    """Signs the tokens that stand for API keys inside the mesh; ECDSA P-256, PEM."""

    @field_validator("pepper", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return _parts(value)

    @field_validator("pepper")
    @classmethod
    def _check(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(part.get_secret_value()) < 32 for part in value):
            raise ValueError("must be 32 characters or more")
        return value


class TelemetrySettings(_Concern):
    """Where traces and metrics are sent; metrics can be scraped in any case."""

    otlp_endpoint: str = Field(default="", pattern=r"^(https?://[^/\s]+)?$")
    """`http://host:port` of an OTLP collector (gRPC); empty sends nothing."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Of the traces that begin here; behind the edge it has decided."""
    metrics_interval_seconds: float = Field(default=30, gt=0)
    """How often metrics are sent."""


class WatchSettings(_Concern):
    """How watches live, and how long what they send is kept."""

    retention_seconds: float = Field(default=86_400, gt=0)
    """How long changes are kept, and so how old a resume token may be."""
    heartbeat_seconds: float = Field(default=30, gt=0, le=120)
    """After which silence a message says that there is nothing; well below every idle limit on the way."""
    max_age_seconds: float = Field(default=3600, gt=0, le=7000)
    """How long a watch lives, give or take a tenth, until it is resumed, perhaps elsewhere."""
    stall_seconds: float = Field(default=30, gt=0)
    """How long a client may leave a message unread before its watch is ended."""


class LogSettings(_Concern):
    """What is written down."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe level that is written."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a service process is told."""

    server: ServerSettings
    database: DatabaseSettings
    tls: TlsSettings
    auth: AuthSettings
    pagination: PaginationSettings
    log: LogSettings
    siblings: Mapping[str, str]
    """`host:port` of each service that this one calls."""
    telemetry: TelemetrySettings = field(default_factory=TelemetrySettings)
    """Off unless it says where to."""
    watch: WatchSettings = field(default_factory=WatchSettings)
    """Good as it is."""
    api_keys: ApiKeySettings | None = None
    """Only where API keys are issued."""

    @classmethod
    def load(cls, service: str, *, siblings: Sequence[str] = (), api_keys: bool = False) -> Self:
        """Reads the environment of ``service``, which calls ``siblings``.

        Args:
            api_keys: whether the service issues API keys.

        Raises:
            SettingsError: variables are missing or malformed; the message names all of them.
        """
        faults: list[str] = []
        settings = (
            _read(ServerSettings, f"{service}_SERVER_", faults),
            _read(DatabaseSettings, f"{service}_DATABASE_", faults),
            _read(TlsSettings, f"{service}_TLS_", faults),
            _read(AuthSettings, f"{service}_AUTH_", faults),
            _read(PaginationSettings, f"{service}_PAGINATION_", faults),
            _read(LogSettings, f"{service}_LOG_", faults),
        )
        telemetry = _read(TelemetrySettings, f"{service}_TELEMETRY_", faults)
        watch = _read(WatchSettings, f"{service}_WATCH_", faults)
        issuing = _read(ApiKeySettings, f"{service}_APIKEYS_", faults) if api_keys else None
        addresses = {name: _address(f"{service}_CLIENTS_{name}_ADDRESS".upper(), faults) for name in siblings}
        if faults:
            raise SettingsError("\n".join(["The environment is incomplete:", *(f"  {fault}" for fault in faults)]))
        return cls(*settings, siblings=addresses, telemetry=telemetry, watch=watch, api_keys=issuing)


def _read(concern: type[ConcernT], prefix: str, faults: list[str]) -> ConcernT:
    prefix = prefix.upper()
    try:
        return concern(_env_prefix=prefix)  # type: ignore[call-arg]  # an argument of BaseSettings, not a field
    except ValidationError as error:
        faults += [f"{prefix}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
        return concern.model_construct()  # never seen: `faults` is not empty


def _address(name: str, faults: list[str]) -> str:
    address = os.environ.get(name, "")
    if not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
        faults.append(f"{name}: must be host:port")
    return address


def load_owner_url(service: str) -> str:
    """Reads the owner's connection, which is all that `migrate` needs.

    Raises:
        SettingsError: it is missing.
    """
    name = f"{service}_DATABASE_OWNER_URL".upper()
    url = os.environ.get(name)
    if not url:
        raise SettingsError(f"The environment is incomplete:\n  {name}: required to migrate the schema")
    return url
