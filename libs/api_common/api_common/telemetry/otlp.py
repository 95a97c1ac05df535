"""The common parts of every export over OTLP: scope, resource, endpoint, time-out."""

from collections.abc import Callable
from typing import Final, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

ExporterT = TypeVar("ExporterT")

SCOPE: Final = InstrumentationScope("ameide.api_common")
"""The instrumentation scope: this library."""


def exporter(kind: Callable[..., ExporterT], endpoint: str) -> ExporterT:
    """Returns an exporter to a collector; one export with its retries takes at most 5 s.

    Args:
        endpoint: `http://host:port` of an OTLP collector (gRPC); `https` is TLS with public authorities.
    """
    return kind(endpoint=endpoint, insecure=endpoint.startswith("http://"), timeout=5)


def resource(service: str) -> Resource:
    """Returns the OpenTelemetry resource of this process."""
    return Resource.create({"service.name": service, "service.namespace": "ameide"})
