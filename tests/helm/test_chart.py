"""What the chart promises a platform team, asserted on what Helm renders."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import helm_python
import kubernetes_validate
import pytest
import yaml
from api_common.settings import Settings
from cryptography.fernet import Fernet
from opentelemetry.sdk.resources import Resource

from tests.helm.release import CHART, ENVIRONMENTS, NAMESPACE, Release, chart, service, values_of
from tools.topology import NAMED, ROOT, SERVICES

NAMES: Final = [service.name for service in SERVICES]
LOCAL: Final = json.loads((ROOT / "envoy" / "local" / "edge.json").read_text())
# Kinds of operators that are not part of Kubernetes; nobody publishes their schemas as a package.
FOREIGN: Final = {"Certificate", "Issuer", "PodMonitor", "PrometheusRule", "HTTPRoute"}


def cores(quantity: str) -> float:
    return float(quantity.removesuffix("m")) / (1000 if quantity.endswith("m") else 1)


class TestForm:
    @pytest.mark.parametrize("environment", ENVIRONMENTS)
    def test_helm_finds_nothing_to_say(self, environment: str) -> None:
        report = helm_python.lint(CHART, values_of(environment), strict=True, namespace=NAMESPACE)
        assert (report["messages"], report["errors"]) == ([], [])

    @pytest.mark.parametrize(("environment", "version"), [("defaults", "1.30"), ("large", "1.30"), ("large", "1.37")])
    def test_every_object_is_one_of_kubernetes(self, environment: str, version: str) -> None:
        checked = [one for one in Release(values_of(environment)).objects if one["kind"] not in FOREIGN]
        for one in checked:
            kubernetes_validate.validate(one, version, strict=True)
        assert len(checked) > 20

    @pytest.mark.parametrize(
        "wrong",
        [
            {"servces": {}},
            {"services": {"users": {"replica": 3}}},
            {"auth": {"issuer": "http://plain.example.com"}},
            {"certificates": {"mode": "issuer"}},
            {"defaults": {"resources": {"requests": {"cpu": "much", "memory": "1Gi"}}}},
            {"services": {"users": None}},
            {"telemetry": {"otlpEndpoint": "http://collector"}},
        ],
    )
    def test_values_that_mean_nothing_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(helm_python.HelmError):
            chart().validate_schema(wrong)
        with pytest.raises(helm_python.HelmError):
            Release(wrong)

    def test_values_of_a_service_that_there_is_not_are_refused(self) -> None:
        with pytest.raises(helm_python.HelmError, match=r"services\.fifth: there is no such service"):
            Release({"services": {"fifth": {}}})

    @pytest.mark.parametrize("part", ["defaults", "edge"])
    def test_more_pods_at_least_than_at_most_are_refused(self, part: str) -> None:
        with pytest.raises(helm_python.HelmError, match=r"minReplicas 9 is more than maxReplicas 3"):
            Release({part: {"autoscaling": {"minReplicas": 9, "maxReplicas": 3}}})

    def test_the_page_of_the_chart_names_every_value(self) -> None:
        values = yaml.safe_load((CHART / "values.yaml").read_text())
        assert re.findall(r"^\| `(\w+)` \|", (CHART / "README.md").read_text(), re.MULTILINE) == list(values)

    def test_names_are_unique(self, release: Release) -> None:
        names = [(one["kind"], one["metadata"]["name"]) for one in release.objects]
        assert len(names) == len(set(names))

    def test_notes_say_what_to_do_next(self, production: Release) -> None:
        assert "rollout status" in production.notes
        assert "https://login.example.com/" in production.notes


class TestWorkloads:
    def test_every_service_and_the_edge_run(self, release: Release) -> None:
        assert set(release.of_kind("Deployment")) == {*NAMES, "edge"}
        assert set(release.of_kind("Service")) == {*NAMES, "edge"}
        assert set(release.of_kind("ServiceAccount")) == {*NAMES, "edge"}

    def test_every_pod_is_restricted(self, release: Release) -> None:
        for component, pod in release.pods():
            spec = pod["spec"]
            assert spec["automountServiceAccountToken"] is False, component
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in (*spec["containers"], *spec.get("initContainers", ())):
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert set(container["resources"]) == {"requests", "limits"}
                assert {"cpu", "memory"} <= set(container["resources"]["limits"])

    @pytest.mark.parametrize("environment", ["defaults", "production", "large"])
    def test_every_deployment_scales_and_survives_a_node(self, environment: str) -> None:
        release = Release(values_of(environment))
        scalers, budgets = release.of_kind("HorizontalPodAutoscaler"), release.of_kind("PodDisruptionBudget")
        for component, deployment in release.of_kind("Deployment").items():
            # With a count of its own, each upgrade would undo what the autoscaler did.
            assert "replicas" not in deployment["spec"]
            scaler = scalers[component]["spec"]
            assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
            assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
            assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300
            assert budgets[component]["spec"]["selector"] == deployment["spec"]["selector"]
            template = deployment["spec"]["template"]
            spread = template["spec"]["topologySpreadConstraints"]
            assert {one["topologyKey"] for one in spread} == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
            for one in spread:
                assert one["labelSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
                # The pods that a rollout replaces do not count, nor do the nodes of a zone that is drained.
                assert (one["matchLabelKeys"], one["nodeTaintsPolicy"]) == (["pod-template-hash"], "Honor")

    @pytest.mark.parametrize("environment", ["defaults", "production", "large"])
    def test_pods_are_added_before_they_use_up_what_they_may(self, environment: str) -> None:
        release = Release(values_of(environment))
        for component, scaler in release.of_kind("HorizontalPodAutoscaler").items():
            # A share of what the pod requests would say something else for each request.
            target = scaler["spec"]["metrics"][0]["resource"]["target"]
            assert target["type"] == "AverageValue"
            (container,) = release.of_kind("Deployment")[component]["spec"]["template"]["spec"]["containers"]
            assert 0.5 < cores(target["averageValue"]) / cores(container["resources"]["limits"]["cpu"]) < 0.8

    def test_the_runbook_names_the_chart_s_target(self) -> None:
        said = f"above {cores(chart().merge_values({})['defaults']['autoscaling']['targetCPU']):g} of a core"
        assert said in " ".join((ROOT / "docs" / "runbook.md").read_text().split())

    def test_priority_classes_are_made_before(self) -> None:
        named = {
            spec["priorityClassName"]
            for environment in ENVIRONMENTS
            for _, pod in Release(values_of(environment)).pods()
            if "priorityClassName" in (spec := pod["spec"])
        }
        text = (ROOT / "docs" / "runbook.md").read_text()
        assert named == set(re.findall(r"kubectl create priorityclass (\S+)", text)) == {"business-critical"}

    def test_migrations_run_where_their_service_may(self) -> None:
        placement: dict[str, Any] = {
            "nodeSelector": {"pool": "api"},
            "tolerations": [{"key": "dedicated", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "priorityClassName": "business-critical",
        }
        release = Release({"defaults": placement, "services": {"users": {"nodeSelector": {"disk": "fast"}}}})
        jobs = release.of_kind("Job")
        for component, pod in release.of_kind("Deployment").items():
            if component != "edge":
                job = jobs[f"{component}-migration"]["spec"]["template"]["spec"]
                of_service = {name: pod["spec"]["template"]["spec"][name] for name in placement}
                assert {name: job[name] for name in placement} == of_service
        assert jobs["users-migration"]["spec"]["template"]["spec"]["nodeSelector"] == {"pool": "api", "disk": "fast"}

    def test_no_job_runs_before_its_network_policy(self, release: Release) -> None:
        policies = release.of_kind("NetworkPolicy")
        for component, job in release.of_kind("Job").items():
            first, then = (one["metadata"]["annotations"] for one in (policies[component], job))
            assert first["helm.sh/hook"] == then["helm.sh/hook"]
            assert int(first["helm.sh/hook-weight"]) < int(then["helm.sh/hook-weight"])
            # It is the only one when the chart is installed, so it has to say everything.
            spec = policies[component]["spec"]
            assert spec["policyTypes"] == ["Ingress", "Egress"]
            assert spec["egress"][0] == policies["network"]["spec"]["egress"][0]

    def test_large_scales_by_requests_too(self) -> None:
        metrics = Release(values_of("large")).of_kind("HorizontalPodAutoscaler")["users"]["spec"]["metrics"]
        assert [metric["type"] for metric in metrics] == ["Resource", "Pods"]

    @pytest.mark.parametrize("name", NAMES)
    def test_the_kubelet_waits_for_the_drain(self, release: Release, name: str) -> None:
        spec = release.of_kind("Deployment")[name]["spec"]["template"]["spec"]
        environment = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
        delay = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        drain = float(str(environment[f"{name.upper()}_SERVER_DRAIN_SECONDS"]))
        assert spec["terminationGracePeriodSeconds"] > delay + drain

    def test_the_edge_stops_to_listen_before_it_ends(self, release: Release) -> None:
        spec = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        *_, script = container["lifecycle"]["preStop"]["exec"]["command"]
        # With `skip_exit` it would go on listening until it is killed (tests/e2e/edge/test_drain.py).
        assert '"drain_listeners?graceful"' in script
        waits = int(re.findall(r"time\.sleep\((\d+)\)", script)[0])
        listens = int(container["args"][container["args"].index("--drain-time-s") + 1])
        assert 0 < listens < waits < spec["terminationGracePeriodSeconds"]

    def test_callers_see_every_pod(self, release: Release) -> None:
        for name in NAMES:
            assert release.of_kind("Service")[name]["spec"]["clusterIP"] == "None"

    def test_schemas_are_migrated_before_new_pods_start(self, release: Release) -> None:
        jobs = release.of_kind("Job")
        assert set(jobs) == {f"{name}-migration" for name in NAMES}
        for component, job in jobs.items():
            assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
            (container,) = job["spec"]["template"]["spec"]["containers"]
            assert container["args"] == ["migrate"]
            name = component.removesuffix("-migration")
            assert [one["name"] for one in container["env"]] == [f"{name.upper()}_DATABASE_OWNER_URL"]

    def test_no_service_knows_the_owner_of_its_tables(self, release: Release) -> None:
        for name in NAMES:
            assert "owner-url" not in str(release.of_kind("Deployment")[name])

    def test_secrets_come_by_reference_only(self, release: Release) -> None:
        assert not release.of_kind("Secret")


class TestSettings:
    """The environment of each pod is what the service's own settings want, no more and no less."""

    @pytest.mark.parametrize("name", NAMES)
    def test_are_complete(self, release: Release, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        spec = release.of_kind("Deployment")[name]["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        secrets: Mapping[str, str] = {
            "url": "postgresql://a@b/c",
            "keys": Fernet.generate_key().decode(),
            "pepper": "p" * 32,
        }
        for one in container["env"]:
            # What is secret is a file.
            monkeypatch.setenv(one["name"], one["value"])
        (files,) = (volume["projected"]["sources"] for volume in spec["volumes"] if volume["name"] == "secrets")
        for item in (item for source in files for item in source["secret"]["items"]):
            (tmp_path / item["path"]).write_text(secrets[item["key"]])
        monkeypatch.setattr("api_common.settings._SECRETS", tmp_path)
        asked = service(name)
        settings = Settings.load(name, siblings=asked.siblings, api_keys=asked.api_keys is not None)
        assert set(settings.siblings) == set(NAMED[name].siblings)
        assert list(settings.server.internal_callers) == sorted(NAMED[name].callers)
        for sibling, address in settings.siblings.items():
            found = release.of_kind("Service")[sibling]["metadata"]["name"]
            assert address == f"{found}.{NAMESPACE}.svc.cluster.local:50051"
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/run/secrets" in mounts
        for path in (settings.tls.certificate_path, settings.tls.ca_path, settings.auth.internal_jwks_path):
            assert path is not None
            assert str(path.parent) in mounts

    def test_tell_traces_and_metrics_the_version(self, production: Release, monkeypatch: pytest.MonkeyPatch) -> None:
        (container,) = production.of_kind("Deployment")["users"]["spec"]["template"]["spec"]["containers"]
        (told,) = (one for one in container["env"] if one["name"].startswith("OTEL_"))
        monkeypatch.setenv(told["name"], told["value"])
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
        assert Resource.create().attributes["service.version"] == version


class TestEdge:
    @pytest.mark.parametrize(
        ("gateway", "hops"), [({}, 0), ({"enabled": True}, 1), ({"enabled": True, "trustedHops": 2}, 2)]
    )
    def test_trusts_the_hops_of_a_gateway_and_no_origin_of_its_own(self, gateway: dict[str, Any], hops: int) -> None:
        files = Release({"edge": {"gateway": gateway}}).of_kind("ConfigMap")["edge"]["data"]
        decided = {"trusted_hops": hops, "origins": [], "issuers": ["https://login.example.com/"]}
        assert json.loads(files["edge.json"]) == LOCAL | decided | {"connect": False, "mcp": False}

    def test_takes_the_rates_of_this_environment(self) -> None:
        files = Release({"edge": {"rates": {"READ": {"principal": 7}}}}).of_kind("ConfigMap")["edge"]["data"]
        rates = LOCAL["rates"] | {"READ": LOCAL["rates"]["READ"] | {"principal": 7}}
        assert json.loads(files["edge.json"])["rates"] == rates

    def test_is_ready_by_the_operations_port(self, release: Release) -> None:
        (container,) = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]["containers"]
        for name, kind in {"livenessProbe": "tcpSocket", "readinessProbe": "httpGet"}.items():
            assert container[name][kind]["port"] == "operations"

    def test_its_audience_is_that_of_the_services(self) -> None:
        files = Release({"auth": {"audience": "another"}}).of_kind("ConfigMap")["edge"]["data"]
        assert files["audience.lua"] == 'return "another"\n'
        providers = yaml.safe_load(files["authentication.yaml"])["resources"][0]["typed_config"]["providers"]
        assert {name: one["audiences"] for name, one in providers.items()} == {
            "ameide": ["another"],
            "internal": ["another"],
        }

    def test_the_pod_mounts_every_file(self, release: Release) -> None:
        spec = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "config")
        files = release.of_kind("ConfigMap")["edge"]["data"]
        assert {item["key"] for item in volume["configMap"]["items"]} == set(files)

    def test_its_image_leaves_room_for_every_file(self, release: Release) -> None:
        """The image holds the built envoy.yaml; the names that it leaves to /config are those that the pod mounts."""
        (left,) = re.findall(r"for name in ([\w. ]+); do", (CHART.parents[1] / "Dockerfile").read_text())
        spec = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "config")
        mounted = {item["path"].partition("/")[0] for item in volume["configMap"]["items"]}
        assert mounted == set(left.split())
        assert "envoy.yaml" not in mounted

    def test_a_changed_file_replaces_the_pods_and_leaves_the_old_ones_theirs(self) -> None:
        def files(values: dict[str, Any]) -> str:
            release = Release(values)
            spec = release.of_kind("Deployment")["edge"]["spec"]["template"]["spec"]
            (name,) = (volume["configMap"]["name"] for volume in spec["volumes"] if volume["name"] == "config")
            assert release.of_kind("ConfigMap")["edge"]["metadata"]["name"] == name
            assert release.of_kind("ConfigMap")["edge"]["immutable"] is True
            return str(name)

        assert files({}) == files({"edge": {"replicas": 7}}) != files({"auth": {"audience": "another"}})


_OWNS: Final[dict[str, Any]] = {"f:spec": {"f:replicas": {}}}
"""The fields of somebody who has set a Deployment's count."""


class TestHandOver:
    """Turning autoscaling on keeps the pods that there are. A cluster's `lookup` tells how many; here the test does."""

    def test_of_pods(self, tmp_path: Path) -> None:
        scaler, remembered = {"spec": {"minReplicas": 3}}, {"annotations": {"ameide/replicas": "handed over"}}
        of_helm, by_helm = {"operation": "Apply", "fieldsV1": _OWNS}, {"operation": "Update", "fieldsV1": _OWNS}
        of_scaler = {"operation": "Update", "subresource": "scale", "fieldsV1": _OWNS}
        of_status = {"operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}}

        def live(replicas: int, **metadata: Any) -> dict[str, Any]:
            return {"metadata": metadata, "spec": {"replicas": replicas}}

        cases: list[tuple[bool, dict[str, Any], dict[str, Any], int | None]] = [
            (False, {}, {}, 2),
            (False, live(7), scaler, 2),
            # Installed with an autoscaler, or long with one: the count is the autoscaler's.
            (True, {}, {}, None),
            (True, live(7), scaler, None),
            # Switched on now, and in every release after that.
            (True, live(7), {}, 7),
            (True, live(1), {}, 3),
            (True, live(9, **remembered), scaler, 9),
            # Server-side apply: named until the autoscaler has set another count, which nobody takes from it then.
            (True, live(9, managedFields=[of_helm, of_status], **remembered), scaler, 9),
            (True, live(9, managedFields=[of_helm, of_status, of_scaler], **remembered), scaler, None),
            (True, live(9, managedFields=[of_helm, of_scaler]), {}, None),
            (True, live(9, managedFields=[by_helm, of_scaler], **remembered), scaler, 9),
        ]
        copy = tmp_path / "ameide"
        shutil.copytree(CHART, copy)
        template = ""
        for enabled, deployment, found, _ in cases:
            values = {"replicas": 2, "autoscaling": {"enabled": enabled, "minReplicas": 3}}
            asked = json.dumps({"values": values, "live": deployment, "scaler": found})
            include = f'include "ameide.replicas" (fromJson `{asked}`) | nindent 2'
            template += f"---\nkind: Asked\ncount: {{{{- {include} }}}}\n"
        (copy / "templates" / "asked.yaml").write_text(template)
        answers = [one for one in Release({}, of=helm_python.Chart.load(copy)).objects if one["kind"] == "Asked"]
        counts = [answer["count"] or {} for answer in answers]
        assert [count.get("replicas") for count in counts] == [expected for *_, expected in cases]
        # The next release knows by it that the count stays.
        assert ["annotation" in count for count in counts] == [False] * 4 + [True] * 4 + [False, False, True]


class TestFifthService:
    def test_is_one_line(self, tmp_path: Path) -> None:
        copy = tmp_path / "ameide"
        shutil.copytree(CHART, copy)
        with (copy / "files" / "services.yaml").open("a") as services:
            services.write("fifth: {siblings: [users]}\n")
        values = {"monitoring": {"rules": {"enabled": True}, "dashboards": {"enabled": True}}}
        release = Release(values, of=helm_python.Chart.load(copy))
        kinds = ("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy")
        for kind in kinds:
            assert "fifth" in release.of_kind(kind), kind
        clusters = yaml.safe_load(release.of_kind("ConfigMap")["edge"]["data"]["clusters.yaml"])["resources"]
        assert {"fifth", *NAMES, "issuer", "collector", "keys"} == {cluster["name"] for cluster in clusters}
        (environment,) = release.of_kind("Deployment")["users"]["spec"]["template"]["spec"]["containers"]
        told = {one["name"]: one.get("value") for one in environment["env"]}
        assert set(told["USERS_SERVER_INTERNAL_CALLERS"].split(",")) == {"fifth", *NAMED["users"].callers}
        monitoring = [one for one in release.objects if one["kind"] in {"PrometheusRule", "ConfigMap"}]
        for text in map(str, monitoring):
            assert text.count("|ipas|") == text.count("|fifth|")
            assert text.count('job="ipas"') == text.count('job="fifth"')


class TestPolicies:
    def test_trivy_finds_nothing_but_what_is_argued_here(self, production: Release, tmp_path: Path) -> None:
        argued = {
            "KSV-0110",  # the namespace is Helm's to say, not in the manifests
            "KSV-0125",  # which registry is trusted is for the values to say
            "KSV-01010",  # envoy.yaml names headers that carry credentials; it holds none
        }
        (tmp_path / "manifests.yaml").write_text(yaml.safe_dump_all(production.objects))
        command = ["trivy", "config", "--skip-check-update", "--quiet", "--format", "json", str(tmp_path)]
        run = subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], capture_output=True, check=True)
        (result,) = json.loads(run.stdout)["Results"]
        assert result["MisconfSummary"]["Successes"] >= 100
        assert {found["ID"] for found in result["Misconfigurations"]} <= argued
