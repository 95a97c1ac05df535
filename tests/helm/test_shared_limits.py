"""What the chart makes of `edge.sharedLimits`."""

import json
from pathlib import Path
from typing import Any, Final

import helm_python
import kubernetes_validate
import pytest
import yaml
from api_common.authn import TRUST_DOMAIN

from tests.helm.release import CHART, NAMESPACE, Release
from tools.edge.build import ENVOY, build
from tools.edge.layout import clusters
from tools.topology import LIMITS, SERVICES

PEERS: Final = [{"ipBlock": {"cidr": "10.30.0.0/16"}}]
ROWS: Final = {"acme": {"READ": {"tenant": 7, "principal": 3}}}


def release(**more: Any) -> Release:
    store = {"address": "valkey.example.com:6379", "existingSecret": "valkey", "peers": PEERS}
    return Release({"edge": {"sharedLimits": {"enabled": True, "store": store, **more}}})


def resources(made: Release) -> dict[str, Any]:
    text = made.of_kind("ConfigMap")["edge"]["data"]["clusters.yaml"]
    return {one["name"]: one for one in yaml.safe_load(text)["resources"]}


def selected(peer: dict[str, Any]) -> Any:
    return peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]


def test_nothing_is_there_without_them() -> None:
    made = Release({})
    assert "limits" not in {one["metadata"]["labels"]["app.kubernetes.io/component"] for one in made.objects}
    assert "shared_limits" not in made.of_kind("ConfigMap")["edge"]["data"]["edge.json"]
    assert "limits" not in resources(made)


def test_every_object_is_one_of_kubernetes() -> None:
    made = release()
    for one in made.objects:
        if one["kind"] != "Certificate" and one["kind"] != "Issuer":
            kubernetes_validate.validate(one, "1.30", strict=True)
    values = {"edge": {"sharedLimits": {"enabled": True, "store": {"address": "valkey:6379"}}}}
    report = helm_python.lint(CHART, values, strict=True, namespace=NAMESPACE)
    assert (report["messages"], report["errors"]) == ([], [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"enabled": True},
        {"enabled": True, "store": {"address": "redis://valkey:6379"}},
        {"tenants": {"acme": {"READ": {"tenant": 7}}}},
        {"tenants": {"acme": {"read": {"tenant": 7, "principal": 3}}}},
        {"tenants": {"acme/principal": {"READ": {"tenant": 7, "principal": 3}}}},
    ],
)
def test_values_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(helm_python.HelmError):
        Release({"edge": {"sharedLimits": wrong}})


def test_the_edge_asks_as_a_local_one_does() -> None:
    made = release()
    assert json.loads(made.of_kind("ConfigMap")["edge"]["data"]["edge.json"])["shared_limits"] is True
    found = resources(made)["limits"]
    (local,) = (
        one
        for one in clusters(ENVOY / "local" / "clusters.yaml", shared_limits=True)["resources"]
        if one["name"] == "limits"
    )
    service = made.of_kind("Service")["limits"]
    address = found["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {
        "address": f"{service['metadata']['name']}.{NAMESPACE}.svc.cluster.local",
        "port_value": service["spec"]["ports"][0]["port"],
    }
    assert service["spec"]["clusterIP"] == "None"
    where = {"type", "load_assignment", "dns_refresh_rate", "lb_policy"}
    assert {key: found[key] for key in found.keys() - where} == {key: local[key] for key in local.keys() - where}


def test_the_service_is_told_the_rates_of_the_edge_and_the_rows_of_tenants() -> None:
    (text,) = release().of_kind("ConfigMap")["limits"]["data"].values()
    common = build(source="shared_limits/limits.yaml")
    assert yaml.safe_load(text) == common
    made = release(tenants=ROWS)
    (text,) = made.of_kind("ConfigMap")["limits"]["data"].values()
    reads, *others = yaml.safe_load(text)["descriptors"]
    assert reads["descriptors"][0] == common["descriptors"][0]["descriptors"][0]
    limit = {"unit": "second", "requests_per_unit": 7}
    assert reads["descriptors"][1] == {
        "key": "tenant",
        "value": "acme",
        "rate_limit": limit,
        "descriptors": [{"key": "/principal", "rate_limit": limit | {"requests_per_unit": 3}}],
    }
    assert others == common["descriptors"][1:]


def test_a_changed_row_replaces_no_pod() -> None:
    one, other = release(), release(tenants=ROWS)
    assert one.of_kind("Deployment") == other.of_kind("Deployment")
    maps = [made.of_kind("ConfigMap")["limits"] for made in (one, other)]
    assert maps[0]["metadata"]["name"] == maps[1]["metadata"]["name"]
    assert "immutable" not in maps[0]
    spec = one.of_kind("Deployment")["limits"]["spec"]["template"]["spec"]
    (mount,) = (mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "limits")
    # A file that is mounted by itself never changes.
    assert "subPath" not in mount


def test_pods_are_restricted_and_told_what_a_local_one_is() -> None:
    made = release()
    spec = made.of_kind("Deployment")["limits"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    edge = made.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]
    assert spec["securityContext"] == edge["securityContext"]
    assert container["securityContext"] == edge["containers"][0]["securityContext"]
    assert spec["automountServiceAccountToken"] is False
    assert set(container["resources"]) == {"requests", "limits"}
    told = {one["name"]: one.get("value") for one in container["env"]}
    lines = (ENVOY / "shared_limits" / "settings.env").read_text().splitlines()
    common = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    assert common.items() <= told.items()
    assert (told["REDIS_URL"], told["REDIS_TLS"]) == ("valkey.example.com:6379", "true")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"grpc": int(told["GRPC_PORT"]), "http": int(told["PORT"])} == ports
    assert ports == {"grpc": LIMITS.grpc_port, "http": LIMITS.operations_port}
    # A password by reference only.
    assert [one["valueFrom"] for one in container["env"] if "value" not in one] == [
        {"secretKeyRef": {"name": "valkey", "key": "auth"}}
    ]
    script = Path("tools/mesh/limits.sh").read_text()
    assert {name for name in told if f"{name}=" in script or name in common or name.startswith("REDIS_")} == set(told)


def test_edge_and_service_know_each_other_by_their_certificates() -> None:
    made = release()
    certificates = made.of_kind("Certificate")
    assert set(certificates) - {"authority"} == {*(service.name for service in SERVICES), "edge", "limits"}
    assert certificates["limits"]["spec"]["uris"] == [f"{TRUST_DOMAIN}limits"]
    spec = made.of_kind("Deployment")["limits"]["spec"]["template"]["spec"]
    told = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
    # envoyproxy/ratelimit looks for a name of DNS.
    assert told["GRPC_CLIENT_TLS_SAN"] in certificates["edge"]["spec"]["dnsNames"]
    (mounted,) = (volume["secret"]["secretName"] for volume in spec["volumes"] if volume["name"] == "tls")
    assert mounted == certificates["limits"]["spec"]["secretName"]


def test_only_the_edge_reaches_the_service_and_it_only_the_store() -> None:
    policies = release().of_kind("NetworkPolicy")
    spec = policies["limits"]["spec"]
    (entry,) = spec["ingress"]
    assert [selected(peer) for peer in entry["from"]] == ["edge"]
    assert [port["port"] for port in entry["ports"]] == [LIMITS.grpc_port]
    assert spec["egress"] == [{"to": PEERS, "ports": [{"port": 6379, "protocol": "TCP"}]}]
    (way,) = (
        rule
        for rule in policies["edge"]["spec"]["egress"]
        if any("podSelector" in peer and selected(peer) == "limits" for peer in rule["to"])
    )
    assert [port["port"] for port in way["ports"]] == [LIMITS.grpc_port]
    for rule in (
        release(store={"address": "valkey:6379"}).of_kind("NetworkPolicy")["limits"]["spec"].get("egress") or ()
    ):
        assert rule["to"]
