"""What the contract says about each method, and who may call it."""

from collections.abc import Sequence

import pytest
from ameide.common.v1 import policy_pb2
from ameide.user.v1 import user_pb2 as pb
from api_common.contract.methods import ROLE_PERMISSIONS, PolicyError, is_granted, read_policies
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

USERS: ServiceDescriptor = pb.DESCRIPTOR.services_by_name["UserService"]


def contract(policy: policy_pb2.Policy | None) -> ServiceDescriptor:
    """Returns a service with one method, `Try`, that has ``policy``."""
    file = descriptor_pb2.FileDescriptorProto(name="try.proto", package="try", syntax="proto3")
    file.dependency.append(pb.DESCRIPTOR.name)
    method = file.service.add(name="TryService").method.add(
        name="Try", input_type=".ameide.user.v1.GetMeRequest", output_type=".ameide.user.v1.User"
    )
    if policy is not None:
        method.options.Extensions[policy_pb2.policy].CopyFrom(policy)
    pool = descriptor_pool.DescriptorPool()
    _add(pool, pb.DESCRIPTOR)
    pool.Add(file)
    found: ServiceDescriptor = pool.FindServiceByName("try.TryService")
    return found


def _add(pool: descriptor_pool.DescriptorPool, file: object) -> None:
    for dependency in file.dependencies:  # type: ignore[attr-defined]
        _add(pool, dependency)
    copied = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(copied)  # type: ignore[attr-defined]
    pool.Add(copied)


class TestDeclarations:
    def test_are_read_for_every_method(self) -> None:
        policies = read_policies(USERS)
        assert list(policies) == [method.name for method in USERS.methods]
        get, suspend = policies["GetUser"], policies["SuspendUser"]
        assert (get.path, get.permission, get.rate_class) == (
            "/ameide.user.v1.UserService/GetUser",
            "users.read",
            "READ",
        )
        assert (get.read_only, suspend.read_only) == (True, False)
        assert (get.request_class, get.response_class) == (pb.GetUserRequest, pb.User)

    @pytest.mark.parametrize(
        "policy",
        [
            None,
            policy_pb2.Policy(),
            policy_pb2.Policy(permission="users.read"),
            policy_pb2.Policy(rate_class=policy_pb2.READ),
        ],
        ids=["none", "empty", "no rate class", "no permission"],
    )
    def test_that_are_missing_stop_the_server(self, policy: policy_pb2.Policy | None) -> None:
        with pytest.raises(PolicyError, match=r"try\.TryService\.Try must declare"):
            read_policies(contract(policy))


class TestRoles:
    @pytest.mark.parametrize(
        ("role", "granted", "denied"),
        [
            ("viewer", ["users.read", "ipas.read"], ["users.write", "agents.write", "ipas.deploy", "ipas.internal"]),
            ("editor", ["users.read", "agents.write", "new.write"], ["users.write", "users.admin", "ipas.deploy"]),
            ("operator", ["agents.read", "ipas.deploy"], ["ipas.write", "users.write", "workflows.deploy"]),
            ("admin", ["users.write", "users.admin", "new.write", "ipas.deploy"], ["users.internal"]),
            ("service", ["users.internal"], ["users.read", "users.write"]),
        ],
    )
    def test_carry_what_the_table_says(self, role: str, granted: Sequence[str], denied: Sequence[str]) -> None:
        assert all(is_granted(permission, frozenset({role})) for permission in granted)
        assert not any(is_granted(permission, frozenset({role})) for permission in denied)

    def test_add_up(self) -> None:
        assert is_granted("ipas.write", frozenset({"operator", "editor"}))
        assert is_granted("ipas.deploy", frozenset({"operator", "editor"}))

    @pytest.mark.parametrize("role", ["", "root", "*", "Admin", "admin ", "*.read", "users.read", "admin,viewer"])
    def test_that_are_unknown_carry_nothing(self, role: str) -> None:
        for permission in ("users.read", "users.write", "*.read", ""):
            assert not is_granted(permission, frozenset({role}))

    def test_are_needed(self) -> None:
        assert not is_granted("users.read", frozenset())

    def test_of_the_table_are_no_more_than_these(self) -> None:
        assert set(ROLE_PERMISSIONS) == {"viewer", "editor", "operator", "admin", "service"}
