"""The rate limits of the edge are those of the contract's classes."""

import re
from collections.abc import Mapping
from typing import Any, Final

import pytest
from ameide.common.v1 import policy_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from tests.contract.built_edge import FILTERS
from tests.lua.filters import Filter
from tests.protos import option, public_methods

STRICT: Final = Filter("strict")


class TestRateLimits:
    @pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
    def test_count_a_method_in_its_class_for_tenant_and_principal(self, method: MethodDescriptor) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        rate_class = policy_pb2.RateClass.Name(option(method, policy_pb2.policy).rate_class)
        counted = {tuple(descriptor_of(action, path) for action in one["actions"]) for one in self.limits("identity")}
        tenant, principal = ("tenant", "ameide.identity/tenant"), ("principal", "ameide.identity/principal")
        assert counted == {(("class", rate_class), tenant), (("class", rate_class), tenant, principal)}

    @pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
    def test_count_a_rest_request_as_its_rpc(self, method: MethodDescriptor) -> None:
        rule = option(method, annotations_pb2.http)
        verb = rule.WhichOneof("pattern")
        path = re.sub(r"{[^}]*}", "x", getattr(rule, verb))
        rate_class = option(method, policy_pb2.policy).rate_class
        assert class_of(verb.upper(), path) == policy_pb2.RateClass.Name(rate_class)

    def test_count_what_has_no_class_as_a_write(self) -> None:
        (named,) = {limit["actions"][0]["metadata"]["default_value"] for limit in self.limits("identity")}
        assert named == "WRITE"

    def test_have_a_bucket_for_every_key(self) -> None:
        buckets = {
            tuple((entry["key"], entry.get("value")) for entry in one["entries"])
            for one in FILTERS["identity"]["descriptors"]
        }
        classes = set(policy_pb2.RateClass.keys()) - {"RATE_CLASS_UNSPECIFIED"}
        shapes = ((("tenant", None),), (("tenant", None), ("principal", None)))
        assert buckets == {(("class", name), *shape) for name in classes for shape in shapes}

    @pytest.mark.parametrize("name", ["address", "identity"])
    def test_are_on_and_say_so(self, name: str) -> None:
        limiter = FILTERS[name]
        assert limiter["rate_limited_as_resource_exhausted"]
        assert limiter["max_dynamic_descriptors"] == 10_000
        assert limiter["filter_enabled"] == limiter["filter_enforced"]
        assert limiter["filter_enabled"]["default_value"] == {"numerator": 100, "denominator": "HUNDRED"}
        # A token comes back within the second that `retry-after` says.
        buckets = [one["token_bucket"] for one in limiter["descriptors"]]
        assert {bucket["fill_interval"] for bucket in buckets} == {"1s"}

    @staticmethod
    def limits(name: str) -> list[dict[str, Any]]:
        limits: list[dict[str, Any]] = FILTERS[name]["rate_limits"]
        return limits


def class_of(method: str, path: str, strict: Filter = STRICT) -> str | None:
    """Returns the rate class that `strict.lua` names for a request."""
    headers = {":method": method, ":path": path, "content-type": "application/grpc"}
    named: Mapping[str, str] = strict.request(headers, bytes(5)).metadata["ameide.identity"] or {}
    return named["class"] if named else None


def descriptor_of(action: dict[str, Any], path: str) -> tuple[str, str]:
    """Returns key and value that a call of an RPC gives an action of a rate limit."""
    said = action["metadata"]
    key, place = said["descriptor_key"], said["metadata_key"]
    if key == "class":
        return key, class_of("POST", path) or said["default_value"]
    return key, "/".join([place["key"], *(step["key"] for step in place["path"])])
