"""The policy of each method in the proto, read once at start: permission, rate class, side effects.

A method without a permission stops the server, so that nothing is open by accident.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from ameide.common.v1 import policy_pb2
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


class PolicyError(Exception):
    """The contract is incomplete, so the server must not start."""


ROLE_PERMISSIONS: Final = {
    "viewer": ("*.read",),
    "editor": ("*.read", "*.write"),
    "operator": ("*.read", "ipas.deploy"),
    "admin": ("*.read", "*.write", "*.deploy", "*.admin", "users.write"),
    "service": ("*.internal",),
}
"""The one table from roles to permissions; `*` stands for every collection, so a new one needs no entry."""

_NAMED_ONLY: Final = frozenset({"users.write"})
"""Permissions that `*` does not include: an editor who could write users could also give roles."""


@dataclass(frozen=True, slots=True)
class MethodPolicy:
    """One method of the contract."""

    path: str
    """The gRPC path, `/ameide.user.v1.UserService/GetUser`."""
    name: str
    """The method's own name, `GetUser`."""
    permission: str
    """The permission that the caller needs."""
    rate_class: str
    """`READ`, `WRITE` or `EXPENSIVE`."""
    read_only: bool
    """Declared without side effects: it runs in a read-only transaction and may be retried."""
    users_only: bool
    """Whether service accounts are refused."""
    returns_secret: bool
    """The response holds a secret that is shown once: it is never stored, so a replay is refused."""
    request_class: type[Message]
    """The generated class of the request."""
    response_class: type[Message]
    """The generated class of the response."""
    is_stream: bool = False
    """The response is a stream of messages."""
    cacheable: bool = False
    """A caller who accepts an age may get an answer that was kept: it depends on tenant and request alone."""

    @property
    def collection(self) -> str:
        """The collection that it is about, as its permission and the feed of changes name it."""
        return self.permission.partition(".")[0]

    @property
    def internal(self) -> bool:
        """Whether only services of the mesh may call it, with their own tokens; the edge has no route to it."""
        return self.permission.endswith(".internal")


def read_policies(service: ServiceDescriptor) -> dict[str, MethodPolicy]:
    """Returns the policy of every method of ``service``, by the method's name.

    Raises:
        PolicyError: a method declares no permission or no rate class.
    """
    return {method.name: _read(service, method) for method in cast(Iterable[MethodDescriptor], service.methods)}


@lru_cache(maxsize=4096)
def is_granted(permission: str, roles: frozenset[str]) -> bool:
    """Tells whether any of ``roles`` grants ``permission``; unknown roles grant nothing."""
    names = {permission} if permission in _NAMED_ONLY else {permission, f"*.{permission.partition('.')[2]}"}
    return any(not names.isdisjoint(ROLE_PERMISSIONS.get(role, ())) for role in roles)


def _read(service: ServiceDescriptor, method: MethodDescriptor) -> MethodPolicy:
    options = method.GetOptions()
    extension = cast(Any, policy_pb2.policy)
    policy = cast(policy_pb2.Policy, options.Extensions[extension])
    if not policy.permission or policy.rate_class == policy_pb2.RATE_CLASS_UNSPECIFIED:
        raise PolicyError(f"{method.full_name} must declare (ameide.common.v1.policy) with permission and rate_class")
    events = {"resume_token", "error", "completed"}
    if method.server_streaming and not events <= set(method.output_type.fields_by_name):
        raise PolicyError(
            f"{method.full_name}: a response that is streamed needs the fields {', '.join(sorted(events))}"
        )
    return MethodPolicy(
        path=f"/{service.full_name}/{method.name}",
        name=method.name,
        permission=policy.permission,
        rate_class=policy_pb2.RateClass.Name(policy.rate_class),
        read_only=options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS,
        users_only=policy.users_only,
        returns_secret=policy.returns_secret,
        request_class=GetMessageClass(method.input_type),
        response_class=GetMessageClass(method.output_type),
        is_stream=method.server_streaming,
        cacheable=policy.cacheable,
    )
