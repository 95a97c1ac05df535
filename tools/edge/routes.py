"""What the edge knows of the RPCs, from their options in `proto/`; their names mean nothing here."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from email.utils import format_datetime
from typing import Any, Final

from ameide.common.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool

from tools.contract.descriptors import ending_of, has_route, methods_of

Node = dict[str, Any]

_HTTP: Final[Any] = annotations_pb2.http


def public_services(descriptors: FileDescriptorSet) -> list[ServiceDescriptor]:
    """Returns the services that clients may call: those with HTTP routes."""
    pool = DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    described = (pool.FindFileByName(file.name) for file in descriptors.file)
    services = (service for file in described for service in file.services_by_name.values())
    return [service for service in services if any(map(has_route, methods_of(service)))]


def routes(services: Iterable[ServiceDescriptor]) -> list[Node]:
    """Returns match, cluster, kind and headers of each route; `envoy.yaml` says what the edge does with a kind.

    The package `ameide.user.v1` belongs to the cluster `users`.
    `safe` are RPCs without side effects, `stream` those that stream responses, `other` is everything else of a service.
    """
    return [
        {"match": match, "cluster": f"{service.file.package.split('.')[1]}s", "kind": kind, "headers": headers}
        for service in services
        for kind, match, headers in _matches(service)
    ]


def with_connect(descriptors: FileDescriptorSet) -> FileDescriptorSet:
    """Returns the contract with a second route for each RPC that has one: the path that Connect calls."""
    extended = FileDescriptorSet.FromString(descriptors.SerializeToString())
    for file in extended.file:
        for service in file.service:
            for method in service.method:
                if method.options.HasExtension(_HTTP):
                    path = f"/{file.package}.{service.name}/{method.name}"
                    method.options.Extensions[_HTTP].additional_bindings.add(post=path, body="*")
    return extended


def _matches(service: ServiceDescriptor) -> Iterator[tuple[str, Node, dict[str, str]]]:
    for method in methods_of(service):
        if ending := ending_of(method):
            yield _kind(method), {"path": f"/{service.full_name}/{method.name}"}, _farewell(ending)
    for kind in ("safe", "stream"):
        if methods := [one for one in methods_of(service) if _kind(one) == kind]:
            yield kind, {"safe_regex": {"regex": _paths(service, methods)}}, {}
    yield "other", {"prefix": f"/{service.full_name}/"}, {}


def _paths(service: ServiceDescriptor, methods: Iterable[MethodDescriptor]) -> str:
    """Returns a regular expression that matches the paths of ``methods`` and no other path."""
    return f"/{re.escape(service.full_name)}/({'|'.join(sorted(method.name for method in methods))})"


def _kind(method: MethodDescriptor) -> str:
    if method.server_streaming:
        return "stream"
    return "safe" if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS else "other"


def _farewell(ending: policy_pb2.Ending) -> dict[str, str]:
    """Returns the headers that say that an RPC ends (RFC 9745, RFC 8594)."""
    since, sunset = (datetime.fromisoformat(f"{day}T00:00:00Z") for day in (ending.deprecated, ending.sunset))
    return {
        "deprecation": f"@{int(since.timestamp())}",
        "sunset": format_datetime(sunset, usegmt=True),
        "link": f'<{ending.link}>; rel="deprecation"',
    }
