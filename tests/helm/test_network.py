"""Who reaches whom in what the chart renders, and the certificates by which they know each other."""

from typing import Final

import pytest
from api_common.authn import TRUST_DOMAIN

from tests.helm.release import Release, service, values_of
from tools.topology import NAMED, SERVICES

NAMES: Final = [service.name for service in SERVICES]


class TestNetwork:
    @pytest.mark.parametrize("name", NAMES)
    def test_only_who_the_service_accepts_reaches_it(self, release: Release, name: str) -> None:
        spec = release.of_kind("NetworkPolicy")[name]["spec"]
        grpc_rule, operations_rule = spec["ingress"]
        callers = {peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in grpc_rule["from"]}
        assert callers == {"edge", *NAMED[name].callers}
        assert [port["port"] for port in grpc_rule["ports"]] == [50051]
        assert [port["port"] for port in operations_rule["ports"]] == [9101]

    @pytest.mark.parametrize("name", NAMES)
    def test_it_reaches_only_whom_it_calls(self, release: Release, name: str) -> None:
        rules = release.of_kind("NetworkPolicy")[name]["spec"]["egress"] or ()
        peers = [peer for rule in rules for peer in rule["to"]]
        selectors = [peer["podSelector"]["matchLabels"] for peer in peers if "podSelector" in peer]
        assert {labels["app.kubernetes.io/component"] for labels in selectors} == set(service(name).siblings)

    def test_all_else_is_closed(self, release: Release) -> None:
        policy = release.of_kind("NetworkPolicy")["network"]["spec"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert "ingress" not in policy
        assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53]
        for _, pod in release.pods():
            assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()

    def test_without_peers_nothing_beyond_the_mesh_is_reached(self) -> None:
        # To Kubernetes an empty list of peers, or none, is everybody.
        release = Release({"telemetry": {"otlpEndpoint": "http://collector:4317"}})
        policies = [policy["spec"] for policy in release.of_kind("NetworkPolicy").values()]
        rules = [rule for spec in policies for rule in spec.get("egress") or ()]
        assert rules and all(rule["to"] for rule in rules)
        assert {kind for rule in rules for peer in rule["to"] for kind in peer} == {"podSelector", "namespaceSelector"}
        assert "is empty" in release.notes

    def test_peers_of_the_values_are_reached(self, production: Release) -> None:
        assert "is empty" not in production.notes
        networks = {
            component: [
                peer["ipBlock"]["cidr"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer
            ]
            for component, policy in production.of_kind("NetworkPolicy").items()
        }
        database, issuer = "10.20.0.0/16", "203.0.113.0/24"
        assert networks == {
            "network": [],
            "edge": [issuer],
            "test": [],
            **{name: [database, issuer] for name in NAMES},
            **{f"{name}-migration": [database] for name in NAMES},
        }

    def test_behind_a_pooler_migrations_reach_postgres_itself(self, production: Release) -> None:
        def database_ports(release: Release, component: str) -> list[int]:
            (rule,) = (
                rule
                for rule in release.of_kind("NetworkPolicy")[component]["spec"]["egress"]
                if {"ipBlock": {"cidr": "10.20.0.0/16"}} in rule["to"]
            )
            return [port["port"] for port in rule["ports"]]

        large = Release(values_of("large"))
        for name in NAMES:
            assert (database_ports(large, name), database_ports(large, f"{name}-migration")) == ([6432], [5432])
            assert database_ports(production, name) == database_ports(production, f"{name}-migration") == [5432]

    def test_the_world_reaches_the_edge_only(self, release: Release) -> None:
        # A rule without `from` is the world.
        open_rules = [
            component
            for component, policy in release.of_kind("NetworkPolicy").items()
            for rule in policy["spec"].get("ingress", ())
            if "from" not in rule
        ]
        assert open_rules == ["edge"]

    def test_the_admin_port_stays_inside_the_pod(self, release: Release) -> None:
        assert "9901" not in str(release.of_kind("Service")["edge"])
        (container,) = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]["containers"]
        assert {port["containerPort"] for port in container["ports"]} == {8080, 8443, 9105}


class TestCertificates:
    @pytest.mark.parametrize("environment", ["defaults", "production"])
    def test_every_process_has_the_name_that_its_peers_look_for(self, environment: str) -> None:
        certificates = Release(values_of(environment)).of_kind("Certificate")
        for name in (*NAMES, "edge"):
            spec = certificates[name]["spec"]
            assert spec["uris"] == [f"{TRUST_DOMAIN}{name}"]
            assert spec["privateKey"]["algorithm"] == "ECDSA"
            assert {"server auth", "client auth"} <= set(spec["usages"])

    def test_existing_ones_are_left_alone(self) -> None:
        assert not Release({"certificates": {"mode": "existing"}}).of_kind("Certificate")

    def test_the_pods_mount_what_is_made(self, production: Release) -> None:
        for name, certificate in production.of_kind("Certificate").items():
            volumes = production.of_kind("Deployment")[name]["spec"]["template"]["spec"]["volumes"]
            mounted = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
            assert certificate["spec"]["secretName"] in mounted
