"""What the edge knows of the RPCs, from their options in `proto/`; their names mean nothing here."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from itertools import chain
from typing import Any, Final

from ameide.common.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions
from google.protobuf.descriptor_pool import DescriptorPool

from tools.contract.descriptors import ending_of, has_route, methods_of

Node = dict[str, Any]

_HTTP: Final[Any] = annotations_pb2.http
_POLICY: Final[Any] = policy_pb2.policy


@dataclass(frozen=True, slots=True)
class PublicService:
    """A service that clients may call: its RPCs have HTTP routes."""

    name: str
    """The full name, which is also the first part of each path."""
    cluster: str
    methods: tuple[MethodDescriptor, ...]

    def paths(self, methods: Iterable[MethodDescriptor]) -> str:
        """Returns a regular expression that matches the paths of ``methods`` and no other path."""
        return f"/{re.escape(self.name)}/({'|'.join(sorted(method.name for method in methods))})"


def public_services(descriptors: FileDescriptorSet) -> list[PublicService]:
    """Returns every service with an HTTP route; the package `ameide.user.v1` belongs to the cluster `users`."""
    pool = DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    described = (pool.FindFileByName(file.name) for file in descriptors.file)
    return [
        PublicService(service.full_name, f"{file.package.split('.')[1]}s", methods)
        for file in described
        for service in file.services_by_name.values()
        if (methods := tuple(filter(has_route, methods_of(service))))
    ]


def routes(services: Iterable[PublicService]) -> list[Node]:
    """Returns match, cluster, kind and headers of each route; `envoy.yaml` says what the edge does with a kind.

    `safe` are RPCs without side effects, `stream` those that stream responses, `other` is everything else of a service.
    """
    return [
        {"match": match, "cluster": service.cluster, "kind": kind, "headers": headers}
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


def rate_limits(services: list[PublicService]) -> list[Node]:
    """Returns the limits of each rate class, per tenant and per principal in it; what has no class of its own is WRITE.

    Raises:
        ValueError: an RPC declares no class.
    """
    # The edge holds a list of tools until its caller has read it.
    paths: dict[str, list[str]] = {"READ": [], "EXPENSIVE": [r"/mcp/(.+/)?tools\.json"]}
    for service in services:
        classes = {method.name: method.GetOptions().Extensions[_POLICY].rate_class for method in service.methods}
        if undeclared := [name for name, value in classes.items() if value == policy_pb2.RATE_CLASS_UNSPECIFIED]:
            raise ValueError(f"{service.name}: {', '.join(undeclared)} must have a rate_class in the policy")
        for name, found in paths.items():
            if methods := [one for one in service.methods if classes[one.name] == policy_pb2.RateClass.Value(name)]:
                found.append(service.paths(methods))
    matches = [_in_class(name, "|".join(found)) for name, found in paths.items() if found]
    matches.append(_in_class("WRITE", "|".join(chain(*paths.values())), expect_match=False))
    tenant, principal = _identity("tenant"), _identity("principal")
    return [{"actions": [match, *keys]} for match in matches for keys in ([tenant], [tenant, principal])]


def statistics(services: Iterable[PublicService]) -> list[Node]:
    """Returns the RPCs that the filter `grpc_stats` counts by name."""
    return [{"name": one.name, "method_names": [method.name for method in one.methods]} for one in services]


def _matches(service: PublicService) -> Iterator[tuple[str, Node, dict[str, str]]]:
    for method in service.methods:
        if ending := ending_of(method):
            yield _kind(method), {"path": f"/{service.name}/{method.name}"}, _farewell(ending)
    for kind in ("safe", "stream"):
        if methods := [one for one in service.methods if _kind(one) == kind]:
            yield kind, {"safe_regex": {"regex": service.paths(methods)}}, {}
    yield "other", {"prefix": f"/{service.name}/"}, {}


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


def _in_class(name: str, paths: str, **more: bool) -> Node:
    header = {"name": ":path", "string_match": {"safe_regex": {"regex": paths}}}
    return {"header_value_match": {"descriptor_key": "class", "descriptor_value": name, "headers": [header], **more}}


def _identity(name: str) -> Node:
    """Returns an action that reads what `claims.lua` has found."""
    return {"metadata": {"descriptor_key": name, "metadata_key": {"key": "ameide.identity", "path": [{"key": name}]}}}
