"""Lays out Envoy's working directory and starts it there: `python tools/edge/layout.py FOLDER DRAIN_SECONDS`."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
ENVOY: Final = ROOT / "envoy"
DRAIN_SECONDS: Final = 30


def lay_out(
    target: Path,
    *,
    certs: Path,
    port_offset: int = 0,
    environment: Path = ENVOY / "local",
    claims: str = "generic",
    traced_percent: int = 0,
) -> None:
    """Fills ``target`` with what `envoy.yaml` names; what is there of an earlier layout is replaced.

    Certificates are linked, not copied, so that a renewed one is the edge's, too.

    Args:
        certs: the folder that `certificates.ensure` fills.
        port_offset: added to every port, also those of services and issuer; nothing else in the files changes.
        environment: the folder that holds `authentication.yaml`, `clusters.yaml` and `secrets/`.
        traced_percent: of the requests that bring no trace, how many begin one.
        claims: where the issuer puts tenant and roles: a name of `CLAIM_MAPS`, the one in `<SERVICE>_AUTH_CLAIMS`.
    """
    target.mkdir(parents=True, exist_ok=True)
    made = (ENVOY / name for name in ("ameide.pb", "contract.lua", "grpc_stats.json", "strict.lua"))
    for source in (*made, ROOT / "docs" / "openapi.json"):
        shutil.copyfile(source, target / source.name)
    # The page, and the program that it loads.
    for folder in (ENVOY / "docs", ROOT / "third_party" / "swagger-ui"):
        shutil.copytree(folder, target / "docs", dirs_exist_ok=True)
    shutil.copytree(environment / "secrets", target / "secrets", dirs_exist_ok=True)
    shutil.copyfile(environment / "authentication.yaml", target / "authentication.yaml")
    shutil.copyfile(ENVOY / "claims" / f"{claims}.lua", target / "claims.lua")
    for source in (ENVOY / "envoy.yaml", environment / "clusters.yaml"):
        _copy_shifted(source, target / source.name, port_offset)
    sampling = target / "runtime" / "tracing" / "random_sampling"
    sampling.parent.mkdir(parents=True, exist_ok=True)
    sampling.write_text(str(traced_percent))
    _link(target / "certs", certs)


def command(target: Path, *, drain_seconds: int = DRAIN_SECONDS) -> list[str]:
    """Returns the command that runs the edge laid out in ``target``, from whichever folder it is started.

    Args:
        drain_seconds: from the order to drain until it listens no more.
    """
    return [sys.executable, str(Path(__file__).resolve()), str(target), str(drain_seconds)]


def run(target: Path, drain_seconds: str) -> NoReturn:
    """Becomes Envoy, in ``target``: the paths in its configuration are relative to that."""
    envoy = Path(sys.executable).with_name("envoy")
    os.chdir(target)
    options = {
        "--config-path": "envoy.yaml",
        "--concurrency": "2",
        "--log-level": "warning",
        "--drain-time-s": drain_seconds,
        # The default of 10 s makes people think that nothing was logged.
        "--file-flush-interval-msec": "500",
    }
    words = [word for option in options.items() for word in option]
    # No hot restart: two edges on one machine would meet in the same shared memory, and the second one dies.
    os.execv(envoy, [str(envoy), *words, "--disable-hot-restart"])  # noqa: S606 - no shell is the point


def _copy_shifted(source: Path, target: Path, port_offset: int) -> None:
    draft = target.with_suffix(".new")
    if port_offset == 0:
        shutil.copyfile(source, draft)
    else:
        document = yaml.load(source.read_text(), yaml.CSafeLoader)
        for address in _socket_addresses(document):
            address["port_value"] += port_offset
        draft.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))
    # Moved into place: Envoy watches for that, not for writes.
    draft.replace(target)


def _socket_addresses(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "port_value" in node:
            yield node
        for value in node.values():
            yield from _socket_addresses(value)
    elif isinstance(node, list):
        for value in node:
            yield from _socket_addresses(value)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink():
        link.unlink()
    link.symlink_to(target.resolve())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python tools/edge/layout.py FOLDER DRAIN_SECONDS")
    run(Path(sys.argv[1]), sys.argv[2])
