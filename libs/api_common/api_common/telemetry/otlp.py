"""The common parts of every export over OTLP: scope, resource, endpoint, time-out."""

from typing import Final, TypedDict

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

SCOPE: Final = InstrumentationScope("ameide.api_common")
"""The instrumentation scope: this library."""


class Collector(TypedDict):
    """The arguments of an exporter."""

    endpoint: str
    """`http://host:port`."""
    insecure: bool
    """Without TLS."""
    timeout: float
    """The time of one export with its retries, in seconds."""


def collector(endpoint: str) -> Collector:
    """Returns the arguments of an exporter to a collector.

    Args:
        endpoint: `http://host:port` of an OTLP collector (gRPC); `https` is TLS with public authorities.
    """
    return {"endpoint": endpoint, "insecure": endpoint.startswith("http://"), "timeout": 5}


def resource(service: str) -> Resource:
    """Returns the OpenTelemetry resource of this process."""
    return Resource.create({"service.name": service, "service.namespace": "ameide"})
