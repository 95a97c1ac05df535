"""The descriptors and comments of everything below `proto/`, for tools and tests."""

import importlib
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import grpc_tools
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from tools.contract.generate import PROTO, THIRD_PARTY

# The kinds of elements with a comment and a name. A source location is a path of these fields of FileDescriptorProto.
_NAMED: Final = {"message_type", "nested_type", "enum_type", "field", "value", "service", "method", "extension"}


@cache
def files() -> tuple[FileDescriptor, ...]:
    """Returns the descriptors of all our .proto files."""
    modules = [importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2") for name in _names()]
    return tuple(module.DESCRIPTOR for module in modules)


@cache
def comments() -> dict[str, str]:
    """Returns all comments by full name; the name of an enum's value is `ameide.user.v1.User.State.ACTIVE`.

    The descriptors in generated code have no comments.
    """
    includes = [f"-I{path}" for path in (PROTO, THIRD_PARTY, Path(grpc_tools.__file__).parent / "_proto")]
    with tempfile.NamedTemporaryFile(suffix=".pb") as output:
        arguments = [*includes, "--include_source_info", f"--descriptor_set_out={output.name}", *_names()]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit("protoc failed; its message is above")
        described = FileDescriptorSet.FromString(Path(output.name).read_bytes())
    found = {}
    for file in described.file:
        for location in file.source_code_info.location:
            if name := _name_at(file, location.path):
                found[name] = location.leading_comments
    return found


def _names() -> list[str]:
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


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
