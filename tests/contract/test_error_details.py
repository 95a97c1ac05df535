"""What services put into errors, the edge can print: its transcoder knows the type of every detail."""

import ast
import re
from typing import Final

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2

from tests.architecture import sources
from tools.edge.build import GENERATED

DETAILS: Final = "libs/api_common/api_common/errors/details.py"


def test_every_type_of_detail_is_in_the_descriptors_of_the_edge() -> None:
    edge = FileDescriptorSet.FromString((GENERATED / "ameide.pb").read_bytes())
    known = {f"{file.package}.{message.name}" for file in edge.file for message in file.message_type}
    (module,) = sources.read(DETAILS)
    sent = set(re.findall(r"error_details_pb2\.(\w+)", module.text))
    assert sent == {"ErrorInfo", "RequestInfo", "RetryInfo", "ResourceInfo", "BadRequest"}
    assert {f"google.rpc.{name}" for name in error_details_pb2.DESCRIPTOR.message_types_by_name} <= known


def test_details_are_packed_in_one_place() -> None:
    """One of another type would be an error without a body: its file must be among what the edge knows."""
    packing = {
        source.path
        for source, node in sources.nodes(sources.product())
        if isinstance(node, ast.Attribute) and node.attr == "Pack"
    }
    assert packing == {DETAILS}
