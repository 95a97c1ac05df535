"""Fills Envoy's working directory: the built configuration and the files that it names."""

import re
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from tools.edge.build import ENVOY, GENERATED, build
from tools.topology import LIMITS, ROOT, SERVICES, Service


def lay_out(
    target: Path,
    *,
    certs: Path,
    port_offset: int = 0,
    environment: Path = ENVOY / "local",
    claims: str = "generic",
    traced_percent: int = 0,
    generated: Path = GENERATED,
    decided: bool = True,
    shared_limits: bool = False,
) -> None:
    """Builds `envoy.yaml` in ``target`` and puts the files that it names beside it; replaces an earlier layout.

    Certificates are linked, not copied, so that the edge gets renewed ones.

    Args:
        certs: the folder that `certificates.ensure` fills.
        port_offset: added to every port, also those of services and issuer; nothing else in the files changes.
        environment: the folder that is filled as `envoy/local/`, which is the default.
        claims: where the issuer puts tenant and roles: a name of `CLAIM_MAPS`, the one in `<SERVICE>_AUTH_CLAIMS`.
        traced_percent: the share of requests without a trace that begin one.
        generated: the folder that `tools.edge.generate` has filled.
        decided: False leaves places for what `edge.json` decides, for the image, which has an edge for either case of
            ``shared_limits``.
        shared_limits: the edge asks the service of the shared limits about each call (ADR 50), whose file is here, too.
    """
    target.mkdir(parents=True, exist_ok=True)
    files = (generated / "transcoder.pb", generated / "llms.txt", *generated.glob("*.lua"), ROOT / "docs/openapi.json")
    decisions = environment / "edge.json"
    for source in (*files, environment / "authentication.yaml", environment / "audience.lua", decisions):
        shutil.copyfile(source, target / source.name)
    shutil.copyfile(ENVOY / "claims" / f"{claims}.lua", target / "claims.lua")
    # The pages, and the program that they load.
    for folder in (ENVOY / "docs", ROOT / "third_party" / "swagger-ui"):
        shutil.copytree(folder, target / "docs", dirs_exist_ok=True)
    for folder in (ENVOY / "console", generated / "mcp", ENVOY / "lua", environment / "secrets"):
        shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)
    made = {"clusters.yaml": clusters(environment / "clusters.yaml", shared_limits=shared_limits)}
    made["envoy.yaml"] = build(generated, decisions if decided else None, shared_limits=shared_limits)
    if not decided:
        made["envoy_shared_limits.yaml"] = build(generated, None, shared_limits=True)
    if shared_limits:
        made["limits/config/limits.yaml"] = build(generated, decisions, source="shared_limits/limits.yaml")
    for name, document in made.items():
        _write_shifted(document, target / name, port_offset)
    (target / "runtime" / "tracing").mkdir(parents=True, exist_ok=True)
    (target / "runtime" / "tracing" / "random_sampling").write_text(str(traced_percent))
    _link(target / "certs", certs)


def clusters(path: Path, *, shared_limits: bool = False) -> dict[str, Any]:
    """Returns the resources of a `clusters.yaml`, with a cluster of each service in place of the pattern `service`."""
    pattern, *others = yaml.load(path.read_text(), yaml.CSafeLoader)["resources"]
    made = [_cluster_of(service, pattern) for service in SERVICES]
    if shared_limits:
        own = yaml.load((ENVOY / "shared_limits" / "cluster.yaml").read_text(), yaml.CSafeLoader)
        made.append(_cluster_of(LIMITS, pattern) | own)
    return {"resources": [*made, *others]}


def _cluster_of(service: Service, pattern: dict[str, Any]) -> dict[str, Any]:
    cluster = deepcopy(pattern)
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = service.name
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"]["port_value"] = service.grpc_port
    tls = cluster["transport_socket"]["typed_config"]["common_tls_context"]["combined_validation_context"]
    expected = tls["default_validation_context"]["match_typed_subject_alt_names"][0]
    expected["matcher"]["exact"] = f"spiffe://ameide.local/{service.name}"
    return cluster


def _write_shifted(document: Any, target: Path, port_offset: int) -> None:
    text = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, width=120)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".new")
    draft.write_text(re.sub(r"\b(port_\w+: )(\d+)", lambda port: f"{port[1]}{int(port[2]) + port_offset}", text))
    # Envoy watches for a file that is moved into place, not for writes.
    draft.replace(target)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target.resolve())
