"""Generates Python code, type stubs and the descriptor set from `proto/`.

Third-party imports come from their own packages, so none of them is committed: googleapis' from
`googleapis-common-protos`, `buf/validate/validate.proto` from the source distribution of `protovalidate`.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2
from grpc_tools import protoc

from tools.topology import ROOT

PROTO = ROOT / "proto"
THIRD_PARTY = ROOT / "third_party"
OUT = ROOT / "libs" / "ameide_protos"
DESCRIPTOR_SET = ROOT / "envoy" / "generated" / "ameide.pb"

# Envoy prints error details as JSON only if their types are in its descriptor set.
EDGE_EXTRAS = ("google/rpc/error_details.proto", "google/rpc/status.proto")
GOOGLEAPIS = ("annotations", "client", "field_behavior", "field_info", "http", "launch_stage", "resource")
# The last source distribution that contains the .proto; the 2.x wheels contain the engine only.
PROTOVALIDATE_SDIST = (
    "protovalidate==1.2.0 --hash=sha256:4cb9a5065f32abc9baf2cf25c5bd09a139f7dffb7b8692f636a8e3e6883bb9a2\n"
)


def gather_imports() -> None:
    """Copies the imported .proto files into `third_party/`, once."""
    googleapis = Path(annotations_pb2.__file__).parents[2]
    for name in (*(f"google/api/{name}.proto" for name in GOOGLEAPIS), *EDGE_EXTRAS):
        (THIRD_PARTY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(googleapis / name, THIRD_PARTY / name)
    validate = THIRD_PARTY / "buf" / "validate" / "validate.proto"
    if validate.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        # pip asks every source distribution for its metadata; in isolation it would first install, or even build, the
        # tools for that (7 minutes instead of 10 seconds when `--no-binary :all:` met an empty cache).
        options = ("--no-binary", "protovalidate", "--no-build-isolation")
        with tarfile.open(download(PROTOVALIDATE_SDIST, folder, *options)) as tar:
            (member,) = (m for m in tar.getmembers() if m.name.endswith("proto/buf/validate/validate.proto"))
            content = tar.extractfile(member)
            assert content is not None
            validate.parent.mkdir(parents=True, exist_ok=True)
            validate.write_bytes(content.read())


def download(requirement: str, folder: str, *options: str) -> Path:
    """Downloads one archive into the empty ``folder``: ``requirement`` pins it by its hash."""
    listed = Path(folder) / "requirement.txt"
    listed.write_text(requirement)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *options]
    subprocess.run([*pip, "--require-hashes", "--dest", folder, "--requirement", str(listed)], check=True)
    (archive,) = (path for path in Path(folder).iterdir() if path != listed)
    return archive


def generate() -> None:
    """Runs protoc over our protos and over the one import without a Python package."""
    for stale in ("ameide", "buf"):
        shutil.rmtree(OUT / stale, ignore_errors=True)
    ours = proto_files()
    bin_folder = Path(sys.executable).parent
    DESCRIPTOR_SET.parent.mkdir(exist_ok=True)
    plugins = [f"--plugin=protoc-gen-{name}={bin_folder}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")]
    code = [f"--python_out={OUT}", f"--mypy_out=quiet:{OUT}"]
    services = [f"--grpc_python_out={OUT}", f"--mypy_grpc_out=quiet:{OUT}"]
    run_protoc(*plugins, *code, *ours, "buf/validate/validate.proto")
    run_protoc(*plugins, *services, *(name for name in ours if not name.startswith("ameide/common/")))
    run_protoc(f"--descriptor_set_out={DESCRIPTOR_SET}", "--include_imports", *ours, *EDGE_EXTRAS)


def proto_files() -> list[str]:
    """Returns the names of our .proto files, as imports write them."""
    return sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))


def run_protoc(*arguments: str) -> None:
    """Runs protoc; it finds our protos and everything that they import."""
    includes = [f"-I{path}" for path in (PROTO, THIRD_PARTY, Path(grpc_tools.__file__).parent / "_proto")]
    if protoc.main(["protoc", *includes, *arguments]) != 0:
        raise SystemExit("protoc failed; its message is above")


if __name__ == "__main__":
    gather_imports()
    generate()
