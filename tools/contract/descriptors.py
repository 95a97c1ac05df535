"""The descriptors and comments of everything below `proto/`, for tools and tests."""

import importlib
import re
import tempfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from ameide.common.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

from tools.contract.generate import proto_files, run_protoc

# The kinds of elements with a comment and a name. A source location is a path of these fields of FileDescriptorProto.
_NAMED: Final = {"message_type", "nested_type", "enum_type", "field", "value", "service", "method", "extension"}


@cache
def files() -> tuple[FileDescriptor, ...]:
    names = (name.removesuffix(".proto").replace("/", ".") for name in proto_files())
    return tuple(importlib.import_module(f"{name}_pb2").DESCRIPTOR for name in names)


@cache
def comments() -> dict[str, str]:
    """Returns all comments by full name; the name of an enum's value is `ameide.user.v1.User.State.ACTIVE`.

    The descriptors in generated code have no comments.
    """
    with tempfile.NamedTemporaryFile(suffix=".pb") as output:
        run_protoc("--include_source_info", f"--descriptor_set_out={output.name}", *proto_files())
        described = FileDescriptorSet.FromString(Path(output.name).read_bytes())
    found = {}
    for file in described.file:
        for location in file.source_code_info.location:
            if name := _name_at(file, location.path):
                found[name] = location.leading_comments
    return found


def text_of(full_name: str) -> str:
    """Returns the comment of an element of the contract, as paragraphs of one line each."""
    lines = [line.strip() for line in comments().get(full_name, "").strip().splitlines()]
    return "\n\n".join(part.replace("\n", " ") for part in "\n".join(lines).split("\n\n"))


def public_services() -> list[ServiceDescriptor]:
    """Returns the services that clients may call: those with HTTP routes. The others are for siblings only."""
    found = (service for file in files() for service in file.services_by_name.values())
    return [service for service in found if any(map(has_route, methods_of(service)))]


def methods_of(service: ServiceDescriptor) -> Iterable[MethodDescriptor]:
    return cast(Iterable[MethodDescriptor], service.methods)


def has_route(method: MethodDescriptor) -> bool:
    return bool(method.GetOptions().HasExtension(cast(Any, annotations_pb2.http)))


def ending_of(method: MethodDescriptor) -> policy_pb2.Ending | None:
    """Returns when a deprecated RPC ends; None for every other.

    Raises:
        ValueError: the RPC is deprecated and its policy does not say when it ends, or says it without need.
    """
    options: Any = method.GetOptions()
    ending: policy_pb2.Ending = options.Extensions[policy_pb2.policy].ending
    complete = bool(ending.deprecated and ending.sunset and ending.link)
    if options.deprecated != complete:
        raise ValueError(f"{method.full_name}: `deprecated = true` and a whole `ending` in the policy belong together")
    return ending if complete else None


def farewell(ending: policy_pb2.Ending) -> str:
    """Returns what the documents say of a deprecated RPC."""
    return f"Deprecated since {ending.deprecated}, and may be gone on {ending.sunset}: see {ending.link}."


@cache
def reasons() -> dict[str, str]:
    """Returns every reason of an error, with its comment."""
    enums = [file.enum_types_by_name["Reason"] for file in files() if "Reason" in file.enum_types_by_name]
    return {value.name: text_of(f"{enum.full_name}.{value.name}") for enum in enums for value in enum.values[1:]}


def _name_at(file: FileDescriptorProto, path: Sequence[int]) -> str | None:
    """Returns the full name of the element at ``path``, or None if it has none."""
    if not path or len(path) % 2:
        return None
    node: Any = file
    names = [file.package]
    for number, index in zip(path[::2], path[1::2], strict=True):
        field = node.DESCRIPTOR.fields_by_number[number].name
        if field not in _NAMED:
            return None
        node = getattr(node, field)[index]
        names.append(node.name)
    return ".".join(names)


def snake(name: str) -> str:
    """Returns `service_account` for ServiceAccount."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
