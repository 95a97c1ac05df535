"""Prepares a mesh before its processes start: certificates, identity, keys, databases, schemas."""

import asyncio
import os

from api_common.db import DatabaseUrls, provision, upgrade_schema
from cryptography.fernet import Fernet

from tools.mesh import issuer, postgres
from tools.secrets import certificates, files, identity, internal_keys
from tools.topology import ROOT, SERVICES, Mesh, MeshError, Service

Urls = dict[str, DatabaseUrls]
"""The databases by the name of their service."""


def ensure_secrets(mesh: Mesh) -> None:
    """Makes the certificates, the issuer, the keys of page tokens and the secrets of API keys that are missing."""
    certificates.ensure(mesh.certificates)
    identity.ensure(mesh.issuer)
    internal_keys.ensure(mesh.issuer)
    if not mesh.pagination_keys.exists():
        files.write(mesh.pagination_keys, Fernet.generate_key())


def ensure_databases(mesh: Mesh) -> Urls:
    """Returns the databases; starts the embedded Postgres for services without `DATABASE_URL_<SERVICE>`."""
    urls: Urls = {}
    for name in (service.name for service in SERVICES):
        if url := os.environ.get(f"DATABASE_URL_{name.upper()}"):
            owner = os.environ.get(f"DATABASE_OWNER_URL_{name.upper()}") or url
            urls[name] = DatabaseUrls(application=url, owner=owner)
    embedded = [service.name for service in SERVICES if service.name not in urls]
    if not embedded:
        return urls
    admin_url = postgres.start(mesh.postgres)

    async def lay_out() -> dict[str, DatabaseUrls]:
        return {name: await provision(admin_url, name) for name in embedded}

    return urls | asyncio.run(lay_out())


def migrate(urls: Urls, *services: Service) -> None:
    """Migrates the schemas of ``services``, or of all, to their newest revisions.

    It runs in this process: a process per service (`python -m <service> migrate`) would double the time of a start.

    Raises:
        MeshError: a migration failed; the message holds its error.
    """
    for service in services or SERVICES:
        try:
            upgrade_schema(ROOT / "services" / service.name / "migrations", urls[service.name].owner)
        except Exception as error:  # a migration may raise anything
            raise MeshError(f"The migration of {service.name} failed:\n{error}") from error


def environment(mesh: Mesh, service: Service, urls: Urls) -> dict[str, str]:
    """Returns the environment of the process of ``service``: its settings beside our own environment."""
    settings = {
        "SERVER_HOST": "127.0.0.1",
        "SERVER_GRPC_PORT": mesh.ports[f"{service.name} grpc"],
        "SERVER_OPERATIONS_PORT": mesh.ports[f"{service.name} operations"],
        "SERVER_REFLECTION_ENABLED": "true",
        # No load balancer has to notice: the edge stops with the services.
        "SERVER_DRAIN_DELAY_SECONDS": 0,
        "SERVER_INTERNAL_CALLERS": ",".join(service.callers),
        "DATABASE_URL": urls[service.name].application,
        "TLS_CERTIFICATE_PATH": mesh.certificates / f"{service.name}.pem",
        "TLS_PRIVATE_KEY_PATH": mesh.certificates / f"{service.name}.key",
        "TLS_CA_PATH": mesh.certificates / "ca.pem",
        **issuer.settings(mesh),
        "AUTH_INTERNAL_JWKS_PATH": mesh.issuer / "internal-jwks.json",
        "PAGINATION_KEYS": mesh.pagination_keys.read_text(),
    } | {f"CLIENTS_{name.upper()}_ADDRESS": f"127.0.0.1:{mesh.ports[f'{name} grpc']}" for name in service.siblings}
    if service.issues_api_keys:
        settings["APIKEYS_PEPPER"] = (mesh.issuer / "pepper").read_text()
        settings["APIKEYS_SIGNING_KEY_PATH"] = mesh.issuer / "internal.pem"
    if mesh.collector:
        # Send everything at once: somebody watches the collector.
        settings["TELEMETRY_OTLP_ENDPOINT"] = mesh.collector
        settings["TELEMETRY_SAMPLE_RATIO"] = 1
        settings["TELEMETRY_METRICS_INTERVAL_SECONDS"] = 2
    named = {f"{service.name.upper()}_{name}": str(value) for name, value in settings.items()}
    return {**os.environ, **named, "PYTHONUNBUFFERED": "1"}
