"""Generates Python code, type stubs and the descriptor set from `proto/`.

Third-party imports come from their own packages, so none of them is committed: googleapis' from
`googleapis-common-protos`, `buf/validate/validate.proto` from the source distribution of `protovalidate`.
"""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTO = ROOT / "proto"
THIRD_PARTY = ROOT / "third_party"
OUT = ROOT / "libs" / "ameide_protos"
DESCRIPTOR_SET = ROOT / "envoy" / "generated" / "ameide.pb"

GOOGLEAPIS = ("annotations", "client", "field_behavior", "field_info", "http", "launch_stage", "resource")
# Envoy prints error details as JSON only if their types are in its descriptor set.
EDGE_EXTRAS = ("google/rpc/error_details.proto", "google/rpc/status.proto")
# The last source distribution that contains the .proto; the 2.x wheels contain the engine only.
PROTOVALIDATE_SDIST = (
    "protovalidate==1.2.0 --hash=sha256:4cb9a5065f32abc9baf2cf25c5bd09a139f7dffb7b8692f636a8e3e6883bb9a2\n"
)


def gather_imports() -> None:
    """Copies the imported .proto files into `third_party/`, once."""
    googleapis = _package_folder("google.api").parent
    for name in (*(f"api/{name}.proto" for name in GOOGLEAPIS), "rpc/error_details.proto", "rpc/status.proto"):
        _copy(googleapis / name, THIRD_PARTY / "google" / name)
    validate = THIRD_PARTY / "buf" / "validate" / "validate.proto"
    if validate.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "requirement.txt"
        requirement.write_text(PROTOVALIDATE_SDIST)
        # pip asks every source distribution for its metadata; in isolation it would first install, or even build, the
        # tools for that (7 minutes instead of 10 seconds when `--no-binary :all:` met an empty cache).
        options = ["--no-deps", "--no-binary", "protovalidate", "--no-build-isolation", "--require-hashes"]
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *options]
        subprocess.run([*download, "--dest", folder, "--requirement", str(requirement)], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            (member,) = (m for m in tar.getmembers() if m.name.endswith("proto/buf/validate/validate.proto"))
            content = tar.extractfile(member)
            assert content is not None
            validate.parent.mkdir(parents=True, exist_ok=True)
            validate.write_bytes(content.read())


def generate() -> None:
    """Runs protoc over our protos and over the one import without a Python package."""
    for stale in ("ameide", "buf"):
        shutil.rmtree(OUT / stale, ignore_errors=True)
    ours = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    bin_folder = Path(sys.executable).parent
    includes = [f"-I{PROTO}", f"-I{THIRD_PARTY}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    DESCRIPTOR_SET.parent.mkdir(exist_ok=True)
    plugins = [f"--plugin=protoc-gen-{name}={bin_folder}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")]
    code = [f"--python_out={OUT}", f"--mypy_out=quiet:{OUT}"]
    services = [f"--grpc_python_out={OUT}", f"--mypy_grpc_out=quiet:{OUT}"]
    descriptors = [f"--descriptor_set_out={DESCRIPTOR_SET}", "--include_imports"]
    _protoc(*includes, *plugins, *code, *ours, "buf/validate/validate.proto")
    _protoc(*includes, *plugins, *services, *(name for name in ours if not name.startswith("ameide/common/")))
    _protoc(*includes, *descriptors, *ours, *EDGE_EXTRAS)


def _protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("protoc failed; its message is above")


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


if __name__ == "__main__":
    gather_imports()
    generate()
