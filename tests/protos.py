"""The contract as the tests see it: whatever lies below `proto/`, so that nothing has to be listed."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

from ameide.common.v1 import policy_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)

from tools.contract.descriptors import files

ROOT: Final = Path(__file__).resolve().parent.parent


@cache
def services() -> tuple[ServiceDescriptor, ...]:
    """Every service of the contract."""
    return tuple(service for file in files() for service in file.services_by_name.values())


@cache
def methods() -> tuple[MethodDescriptor, ...]:
    """Every RPC of the contract."""
    return tuple(method for service in services() for method in methods_of(service))


@cache
def messages() -> tuple[Descriptor, ...]:
    """Every message, nested ones too; entries of maps are none."""
    return tuple(message for file in files() for top in file.message_types_by_name.values() for message in _within(top))


@cache
def public_services() -> tuple[ServiceDescriptor, ...]:
    """Every service that clients may call; the edge knows these and no others."""
    return tuple(service for service in services() if not any(map(is_internal, methods_of(service))))


@cache
def public_methods() -> tuple[MethodDescriptor, ...]:
    """Every RPC that clients may call."""
    return tuple(method for service in public_services() for method in methods_of(service))


@cache
def internal_methods() -> tuple[MethodDescriptor, ...]:
    """Every RPC that only services of the mesh may call."""
    return tuple(method for method in methods() if is_internal(method))


def is_internal(method: MethodDescriptor) -> bool:
    """Tells whether a permission that no user can have guards an RPC."""
    return bool(option(method, policy_pb2.policy).permission.endswith(".internal"))


@cache
def enums() -> tuple[EnumDescriptor, ...]:
    """Every enum, nested ones too."""
    nested = [enum for message in messages() for enum in message.enum_types]
    return (*(enum for file in files() for enum in file.enum_types_by_name.values()), *nested)


@cache
def resources() -> tuple[Descriptor, ...]:
    """The messages that a Create method makes."""
    return tuple(method.output_type for method in methods() if method.name == f"Create{method.output_type.name}")


@cache
def request_messages() -> tuple[Descriptor, ...]:
    """Every message of ours that a client may send, at any depth."""
    found: dict[str, Descriptor] = {}
    waiting = [method.input_type for method in methods()]
    while waiting:
        message = waiting.pop()
        if message.full_name not in found and message.full_name.startswith("ameide."):
            found[message.full_name] = message
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
    return tuple(message for message in found.values() if not is_map_entry(message))


def is_map_entry(message: Descriptor) -> bool:
    """Tells whether the compiler made ``message`` for a map."""
    return bool(message.GetOptions().map_entry)


def option(described: FieldDescriptor | MethodDescriptor, extension: object) -> Any:
    """Returns the value of a custom option."""
    return described.GetOptions().Extensions[cast(Any, extension)]


def methods_of(service: ServiceDescriptor) -> Iterable[MethodDescriptor]:
    """Every RPC of one service."""
    return cast(Iterable[MethodDescriptor], service.methods)


def _within(message: Descriptor) -> Iterator[Descriptor]:
    if not is_map_entry(message):
        yield message
        for nested in message.nested_types:
            yield from _within(nested)
