"""The common parts of every export over OTLP: scope, resource, time-out."""

from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

SCOPE: Final = InstrumentationScope("ameide.api_common")
"""The instrumentation scope: this library."""

EXPORT_SECONDS: Final = 5
"""The longest time of one export with its retries."""


def resource(service: str) -> Resource:
    """Returns the OpenTelemetry resource of this process."""
    return Resource.create({"service.name": service, "service.namespace": "ameide"})
