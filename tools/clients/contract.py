"""The contract as the generators of clients read it: services, methods, fields and reasons, each with its comment."""

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
)

from tools.make_protos import PROTO, compile_descriptors

# The numbers of descriptor.proto's own fields, by which source locations name what they are about.
_ENUM, _SERVICE, _PART = 5, 6, 2
# What is none of a client's business: what the edge says to services, and the options of methods.
_HIDDEN: Final = ("ameide.edge.", "ameide.common.v1.Policy")


@dataclass(frozen=True, slots=True)
class Message:
    """A message and where it is."""

    proto: DescriptorProto
    full_name: str
    """`ameide.user.v1.User`."""
    file: str
    """`ameide/user/v1/user.proto`."""

    @property
    def name(self) -> str:
        """Its name inside its package, `User.State` for a nested one."""
        return re.sub(r"^([a-z0-9_]+\.)+", "", self.full_name)


@dataclass(frozen=True, slots=True)
class Method:
    """A unary RPC."""

    proto: MethodDescriptorProto
    path: str
    name: str
    """In the client, `create` for CreateUser of UserService."""
    comment: str
    request: Message
    response: Message

    @property
    def writes(self) -> bool:
        return self.proto.options.idempotency_level != MethodOptions.NO_SIDE_EFFECTS

    @property
    def items(self) -> FieldDescriptorProto | None:
        """The field of the response that a list is about, if this is a list."""
        if not any(one.name == "next_page_token" for one in self.response.proto.field):
            return None
        (found,) = (one for one in self.response.proto.field if one.label == FieldDescriptorProto.LABEL_REPEATED)
        return found


@dataclass(frozen=True, slots=True)
class Service:
    """A service and what clients call it."""

    full_name: str
    file: str
    noun: str
    """`ServiceAccounts`."""
    comment: str
    methods: tuple[Method, ...]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a call failed."""

    name: str
    comment: str

    @property
    def error(self) -> str:
        """The name of its class; beside a builtin's name with an underscore."""
        name = "".join(word.capitalize() for word in self.name.split("_")) + "Error"
        return f"{name}_" if name == "NotImplementedError" else name


@dataclass
class Contract:
    """Everything below `proto/` that clients see."""

    services: list[Service] = field(default_factory=list)
    messages: dict[str, Message] = field(default_factory=dict)
    reasons: list[Reason] = field(default_factory=list)

    @property
    def types(self) -> list[Message]:
        """The messages of the API itself that stand for themselves, by name.

        Raises:
            ValueError: two have one name.
        """
        found = [one for one in self.messages.values() if one.file.startswith("ameide/") and "." not in one.name]
        if len({one.name for one in found}) != len(found):
            raise ValueError("two messages of the API have one name: clients could not tell them apart")
        return sorted(found, key=lambda one: one.name)


def read() -> Contract:
    """Compiles `proto/`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "contract.pb"
        names = sorted(str(one.relative_to(PROTO)) for one in PROTO.rglob("*.proto"))
        compile_descriptors(path, names, "--include_source_info")
        files = [one for one in FileDescriptorSet.FromString(path.read_bytes()).file if not _is_internal(one)]
    contract = Contract()
    for file in files:
        for message in file.message_type:
            if not f"{file.package}.{message.name}".startswith(_HIDDEN):
                contract.messages.update(_messages(message, file.package, file.name))
    for file in files:
        if file.package.startswith("ameide."):
            contract.services += _services(file, contract)
            contract.reasons += _reasons(file)
    return contract


def is_required(one: FieldDescriptorProto) -> bool:
    """Tells whether callers must fill a field."""
    return field_behavior_pb2.REQUIRED in one.options.Extensions[cast(Any, field_behavior_pb2.field_behavior)]


def snake(name: str) -> str:
    """Returns `service_account` for ServiceAccount."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _is_internal(file: FileDescriptorProto) -> bool:
    """Tells whether a file is about what services say to each other: RPCs, and none that the edge has a route to."""
    methods = [method for service in file.service for method in service.method]
    return bool(methods) and not any(method.options.HasExtension(cast(Any, annotations_pb2.http)) for method in methods)


def _messages(proto: DescriptorProto, scope: str, file: str) -> Iterator[tuple[str, Message]]:
    name = f"{scope}.{proto.name}"
    yield name, Message(proto, name, file)
    for nested in proto.nested_type:
        yield from _messages(nested, name, file)


def _services(file: FileDescriptorProto, contract: Contract) -> Iterator[Service]:
    comments = _comments(file)
    for index, service in enumerate(file.service):
        resource = service.name.removesuffix("Service")
        full_name = f"{file.package}.{service.name}"
        methods = [
            Method(
                method,
                f"/{full_name}/{method.name}",
                _method_name(method.name, resource),
                comments.get((_SERVICE, index, _PART, number), ""),
                contract.messages[method.input_type.removeprefix(".")],
                contract.messages[method.output_type.removeprefix(".")],
            )
            for number, method in enumerate(service.method)
            if not method.client_streaming and not method.server_streaming
        ]
        yield Service(full_name, file.name, f"{resource}s", comments.get((_SERVICE, index), ""), tuple(methods))


def _method_name(rpc: str, resource: str) -> str:
    """Leaves out what the service's own name says: `create`, `batch_get`, `list_revisions`, but `create_api_key`."""
    return re.sub(f"_{snake(resource)}s?(?=_|$)", "", snake(rpc), count=1)


def _reasons(file: FileDescriptorProto) -> Iterator[Reason]:
    comments = _comments(file)
    for index, enum in enumerate(file.enum_type):
        if enum.name == "Reason":
            for number, value in enumerate(enum.value):
                if value.number:
                    yield Reason(value.name, comments.get((_ENUM, index, _PART, number), ""))


def _comments(file: FileDescriptorProto) -> dict[tuple[int, ...], str]:
    found = {tuple(one.path): one.leading_comments for one in file.source_code_info.location}
    return {path: "\n".join(line.strip() for line in text.strip().splitlines()) for path, text in found.items() if text}
