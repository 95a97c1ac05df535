"""The limits that edges share: what the edge asks, and what the service is told, are those of the edge's own limits."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from api_common.authn import TENANT_PATTERN
from google.protobuf.descriptor import MethodDescriptor

from tests.contract.built_edge import CONFIG, FILTERS
from tests.contract.test_edge_rate_limits import descriptor_of
from tests.protos import public_methods
from tools.edge import start
from tools.edge.build import ENVOY, build
from tools.edge.layout import clusters, lay_out
from tools.topology import LIMITS, NAMED

SHARED: Final = build(shared_limits=True)
FILE: Final = build(source="shared_limits/limits.yaml")
(ASKED,) = (
    one["typed_config"]
    for one in SHARED["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"][
        "http_filters"
    ]
    if one["name"] == "envoy.filters.http.ratelimit"
)


def keys_of(limits: list[dict[str, Any]], path: str) -> list[list[tuple[str, str]]]:
    """Returns the descriptors that a path makes."""
    return [[descriptor_of(action, path) for action in one["actions"]] for one in limits]


def rate_of(nodes: list[dict[str, Any]], keys: list[tuple[str, str]]) -> int:
    """Returns the rate that envoyproxy/ratelimit finds for a descriptor; a key without a value stands for every one."""
    (key, value), *others = keys
    (node,) = (one for one in nodes if one["key"] == key and one.get("value", value) == value)
    if others:
        return rate_of(node["descriptors"], others)
    assert node["rate_limit"]["unit"] == "second"
    return int(node["rate_limit"]["requests_per_unit"])


def test_are_one_filter_more_behind_the_edge_s_own() -> None:
    more = deepcopy(SHARED)
    filters = more["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    names = [one["name"].split(".")[-1] for one in filters]
    place = names.index("ratelimit")
    assert names[place - 1 : place + 2] == ["identity", "ratelimit", "grpc_stats"]
    del filters[place]
    assert more == CONFIG


@pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
def test_count_a_method_as_the_edge_does(method: MethodDescriptor) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    own, shared = (keys_of(one["rate_limits"], path) for one in (FILTERS["identity"], ASKED))
    assert [[(key.lstrip("/"), value) for key, value in keys] for keys in shared] == own
    buckets = {
        tuple((entry["key"], entry.get("value")) for entry in one["entries"]): one["token_bucket"]["tokens_per_fill"]
        for one in FILTERS["identity"]["descriptors"]
    }
    for mine, theirs in zip(own, shared, strict=True):
        (first, *others) = mine
        assert rate_of(FILE["descriptors"], theirs) == buckets[(first, *((key, None) for key, _ in others))]


def test_of_one_tenant_are_never_those_of_another_s_principal() -> None:
    """The store's keys are key and value of each part, joined by `_`: no tenant's name may hold the next key."""
    (key,) = {action["metadata"]["descriptor_key"] for one in ASKED["rate_limits"] for action in one["actions"][2:]}
    assert TENANT_PATTERN.fullmatch("acme_principal_ada")
    assert not TENANT_PATTERN.fullmatch(f"acme_{key}_ada")


def test_let_calls_pass_that_cannot_be_counted() -> None:
    assert ASKED["failure_mode_deny"] is False
    assert float(ASKED["timeout"].removesuffix("s")) <= 0.05
    (cluster,) = (
        one
        for one in clusters(ENVOY / "local" / "clusters.yaml", shared_limits=True)["resources"]
        if one["name"] == ASKED["rate_limit_service"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    )
    # With Envoy's default it would ask hosts of which none is healthy.
    assert cluster["common_lb_config"]["healthy_panic_threshold"] == {"value": 0}
    assert cluster["outlier_detection"]["max_ejection_percent"] == 100
    assert cluster["health_checks"][0]["grpc_health_check"] == {"service_name": "ratelimit"}
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]
    names = tls["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
    assert names[0]["matcher"] == {"exact": f"spiffe://ameide.local/{LIMITS.name}"}
    assert LIMITS.name not in NAMED


def test_are_in_the_image_for_those_who_decide_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "certs").mkdir()
    lay_out(tmp_path / "edge", certs=tmp_path / "certs", decided=False)
    monkeypatch.chdir(tmp_path / "edge")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.execvp", lambda *words: None)
    begin: Any = start.start
    decided = json.loads((tmp_path / "edge" / "edge.json").read_text())
    for told, expected in (({}, CONFIG), ({"shared_limits": False}, CONFIG), ({"shared_limits": True}, SHARED)):
        (tmp_path / "edge" / "edge.json").write_text(json.dumps(decided | told))
        begin([])
        started = yaml.load((tmp_path / "envoy.yaml").read_text(), yaml.CSafeLoader)
        # The local edge has a page to sign in, which the image has not.
        local = json.loads(json.dumps(expected))
        for one in (started, local):
            for listener in one["static_resources"]["listeners"][:2]:
                manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
                (host,) = manager["route_config"]["virtual_hosts"]
                host["routes"] = [route for route in host["routes"] if "sign-in" not in str(route["match"])]
        assert started == local


def test_settings_are_names_and_values() -> None:
    """Both readers take them line by line: the shell, and the chart."""
    lines = (ENVOY / "shared_limits" / "settings.env").read_text().splitlines()
    assert [one for one in lines if not re.fullmatch(r"# .*|[A-Z_]+=[\w.-]+", one)] == []
