"""Builds the peer in Go, if the machine has a toolchain."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import grpc_tools

from tools.contract.generate import PROTO, THIRD_PARTY
from tools.topology import ROOT

SOURCE: Final = Path(__file__).parent / "go"
TARGET: Final = ROOT / ".local" / "bench-go"
_MODULE: Final = "ameide.dev/bench"
_VALIDATE: Final = "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
_PLUGINS: Final = {
    "go": "google.golang.org/protobuf/cmd/protoc-gen-go",
    "go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
    "grpc-gateway": "github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway",
}
_SERVICES: Final = ("ameide/user/v1/user.proto", "ameide/agent/v1/agent.proto")


def build() -> Path | None:
    """Returns the program, or None if Go is missing or too old, or its modules cannot be fetched."""
    if shutil.which("go") is None:
        return None
    shutil.copytree(SOURCE, TARGET, dirs_exist_ok=True)
    try:
        _run("go", "build", "-o", "bin/", *_PLUGINS.values())
        _generate()
        _run("go", "build", "-o", "bin/peer", ".")
    except subprocess.CalledProcessError as error:
        print(f"The peer in Go cannot be built: {error.stderr.decode()[-500:]}", file=sys.stderr)
        return None
    return TARGET / "bin" / "peer"


def _generate() -> None:
    common = [str(path.relative_to(PROTO)) for path in (PROTO / "ameide" / "common").rglob("*.proto")]
    folders = {name: f"{_MODULE}/gen/{Path(name).parent}" for name in (*common, *_SERVICES)}
    packages = {**folders, "buf/validate/validate.proto": _VALIDATE}
    arguments = [f"-I{PROTO}", f"-I{THIRD_PARTY}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    for name in _PLUGINS:
        options = [f"module={_MODULE}", *(f"M{proto}={package}" for proto, package in packages.items())]
        arguments += [f"--plugin=protoc-gen-{name}={TARGET}/bin/protoc-gen-{name}", f"--{name}_out={TARGET}"]
        arguments.append(f"--{name}_opt={','.join(options)}")
    _run(sys.executable, "-m", "grpc_tools.protoc", *arguments, *folders)


def _run(*words: str) -> None:
    # Go must not fetch another toolchain.
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false -mod=readonly"}
    subprocess.run(words, cwd=TARGET, env=environment, check=True, capture_output=True)
