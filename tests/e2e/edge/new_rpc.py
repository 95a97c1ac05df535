"""The contract with one more RPC, whose name begins with a verb that no other has."""

from typing import Any, Final

from ameide.common.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

from tools.edge.build import GENERATED

REINDEX: Final = "/ameide.user.v1.UserService/ReindexUsers"
REST: Final = "/v1/users:reindex"


def contract_with_reindex(**policy: Any) -> FileDescriptorSet:
    """Returns the contract with `ReindexUsers`, which takes and returns what `SuspendUser` does, under this policy."""
    contract = FileDescriptorSet.FromString((GENERATED / "ameide.pb").read_bytes())
    (service,) = (one for file in contract.file for one in file.service if one.name == "UserService")
    method: MethodDescriptorProto = service.method.add(name="ReindexUsers")
    (like,) = (one for one in service.method if one.name == "SuspendUser")
    method.input_type, method.output_type = like.input_type, like.output_type
    options: Any = method.options.Extensions
    options[annotations_pb2.http].post = REST
    options[annotations_pb2.http].body = "*"
    options[policy_pb2.policy].MergeFrom(policy_pb2.Policy(permission="users.reindex", **policy))
    return contract
