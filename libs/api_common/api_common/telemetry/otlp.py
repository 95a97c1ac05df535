"""What every export over OTLP has in common: who tells, whom, and how long it may take."""

from typing import Final, TypedDict

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

SCOPE: Final = InstrumentationScope("ameide.api_common")
"""Who made the telemetry, in OpenTelemetry's terms: the library."""


class Collector(TypedDict):
    """The arguments of an exporter."""

    endpoint: str
    """`http://host:port`."""
    insecure: bool
    """Without TLS."""
    timeout: float
    """Of one export with its retries, in seconds."""


def collector(endpoint: str) -> Collector:
    """Returns how to reach a collector.

    Args:
        endpoint: `http://host:port` of an OTLP collector (gRPC); `https` is TLS with public authorities.
    """
    return {"endpoint": endpoint, "insecure": endpoint.startswith("http://"), "timeout": 5}


def resource(service: str) -> Resource:
    """Returns what identifies this process to a collector."""
    return Resource.create({"service.name": service, "service.namespace": "ameide"})
