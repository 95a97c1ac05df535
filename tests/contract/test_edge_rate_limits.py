"""The rate limits of the edge are those of the contract's classes."""

import re
from typing import Any

import pytest
from ameide.common.v1 import policy_pb2
from google.protobuf.descriptor import MethodDescriptor

from tests.contract.test_edge_config import FILTERS
from tests.protos import option, public_methods


class TestRateLimits:
    @pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
    def test_count_a_method_in_its_class_for_tenant_and_principal(self, method: MethodDescriptor) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}"
        rate_class = policy_pb2.RateClass.Name(option(method, policy_pb2.policy).rate_class)
        keys = {tuple(descriptor_of(action, path) for action in one["actions"]) for one in self.limits("identity")}
        counted = {key for key in keys if None not in key}
        tenant, principal = ("tenant", "ameide.identity/tenant"), ("principal", "ameide.identity/principal")
        assert counted == {(("class", rate_class), tenant), (("class", rate_class), tenant, principal)}

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


def descriptor_of(action: dict[str, Any], path: str) -> tuple[str, str] | None:
    """Returns key and value that a path gives an action of a rate limit, or None, which drops the whole limit."""
    if "metadata" in action:
        place = action["metadata"]["metadata_key"]
        return action["metadata"]["descriptor_key"], "/".join([place["key"], *(step["key"] for step in place["path"])])
    match = action["header_value_match"]
    (header,) = match["headers"]
    matches = re.fullmatch(header["string_match"]["safe_regex"]["regex"], path) is not None
    return (match["descriptor_key"], match["descriptor_value"]) if matches == match.get("expect_match", True) else None
