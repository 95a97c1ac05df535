"""What docs/clients.md and docs/cookbook.md say, done: their blocks run against a mesh, and print what they say."""

import json
import os
import re
import secrets
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc_tools
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests import protos
from tests.e2e.started import token
from tests.services import owner_of
from tools.clients import python, typescript
from tools.topology import ROOT, Mesh

PAGES: Final = {"clients": 7, "cookbook": 15}
"""The pages of docs/ whose blocks are run, and how many blocks there are after the first."""
BLOCK: Final = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def built() -> None:
    typescript.build()


def programs(page: str) -> list[tuple[str, str, str]]:
    """Returns the language, text and expected output of each block; what the first one sets holds for all."""
    blocks = BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text())
    following = [*blocks[1:], ("", "")]
    return [
        (language, text, output if kind == "text" else "")
        for (language, text), (kind, output) in zip(blocks, following, strict=True)
        if language != "text"
    ]


def here(text: str, mesh: Mesh) -> str:
    """Returns ``text`` for a mesh that is not at the usual place."""
    moved = re.sub(r"(//(?:127\.0\.0\.1|localhost):)(\d+)", lambda m: f"{m[1]}{int(m[2]) + mesh.port_offset}", text)
    return moved.replace(".local/", f"{mesh.folder}/")


def run(command: list[str], environment: dict[str, str], folder: Path = ROOT) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_typescript(text: str, environment: dict[str, str]) -> str:
    """Compiles as strictly as the client itself; the package is found under its own name."""
    folder = typescript.PACKAGE / "dist" / "page"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "page.ts").write_text(text)
    options = {
        "extends": "../../tsconfig.json",
        "compilerOptions": {"rootDir": ".", "outDir": "."},
        "include": ["*.ts"],
        "exclude": [],
    }
    (folder / "tsconfig.json").write_text(json.dumps(options))
    run([str(typescript.PACKAGE / "node_modules/.bin/tsc"), "-p", "."], environment, folder)
    return run(["node", "page.js"], environment, folder)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES)
def test_the_page_says_what_happens(mesh: Mesh, built: None, page: str) -> None:
    (_, first, _), *blocks = programs(page)
    environment = {
        **os.environ,
        "AMEIDE_LOCAL_DIR": str(mesh.folder),
        "PORT_OFFSET": str(mesh.port_offset),
        "TENANT": f"t-{secrets.token_hex(8)}",
    }
    environment["TOKEN"] = run(["bash", "-euc", f"{first}echo $TOKEN"], environment).strip()
    assert len(blocks) == PAGES[page]
    for language, text, output in blocks:
        assert output, f"the page does not say what this prints:\n{text}"
        if language == "typescript":
            printed = run_typescript(here(text, mesh), environment)
        elif language == "python":
            printed = run([sys.executable, "-W", "error", "-c", here(text, mesh)], environment)
        else:
            printed = run(["bash", "-euo", "pipefail", "-c", here(text, mesh)], environment)
        assert printed == output, text


ABOUT: Final = (ROOT / "tools" / "openapi" / "about.md").read_text()
BY_HAND: Final = "grpcurl "
"""No registry that the tests use has this program."""
FIRST_CALLS: Final = [call for call in BLOCK.findall(ABOUT) if BY_HAND not in call[1]]
OVER_GRPC_WEB: Final = [
    (language, text.replace("--protocol grpc ", "--protocol grpcweb "))
    for language, text in FIRST_CALLS
    if "--protocol grpc " in text
]


def test_the_page_has_a_first_call_for_each_way_to_the_api() -> None:
    assert re.findall(r"(?m)^(.*):\n\n```", ABOUT) == [
        *("REST", "Python", "TypeScript", "gRPC with grpcurl"),
        *("gRPC with buf, and gRPC-Web with `--protocol grpcweb`", "Connect", "MCP, for AI agents"),
    ]
    assert len(OVER_GRPC_WEB) == 1


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("language", "text"), [*FIRST_CALLS, *OVER_GRPC_WEB])
def test_a_first_call_answers_as_it_is_written(
    mesh: Mesh, built: None, open_client: Callable[..., httpx.Client], language: str, text: str
) -> None:
    open_client("first-calls", "admin").post("/v1/users", json={"displayName": "Ada", "email": "ada@example.com"})
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "TOKEN": token(mesh, "first-calls", "viewer"), "PATH": programs}
    if language == "typescript":
        printed = run_typescript(here(text, mesh), environment)
    else:
        shell = {"python": [sys.executable, "-W", "error"], "sh": ["bash", "-euo", "pipefail"]}
        printed = run([*shell[language], "-c", here(text, mesh)], environment)
    assert "Ada" in printed


def test_the_call_with_grpcurl_names_what_there_is() -> None:
    (call,) = (shlex.split(text.replace("\\\n", "")) for _, text in BLOCK.findall(ABOUT) if BY_HAND in text)
    flags = [(call[at], call[at + 1]) for at in range(2, len(call) - 2, 2)]
    assert [name for name, _ in flags] == ["-import-path", "-import-path", "-proto", "-H"]
    # What google.protobuf declares is a part of grpcurl.
    folders = [*(value for name, value in flags if name == "-import-path"), Path(grpc_tools.__file__).parent / "_proto"]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{folder}" for folder in folders), "-o/dev/null"]
    run([*protoc, dict(flags)["-proto"]], dict(os.environ))
    service, _, method = call[-1].partition("/")
    (known,) = (one for one in protos.public_services() if one.full_name == service)
    assert method in known.methods_by_name


def test_every_service_describes_itself(mesh: Mesh) -> None:
    """Reflection, with nothing but a certificate: no generated code, no .proto."""
    certificate = {name: (mesh.certificates / name).read_bytes() for name in ("ca.pem", "edge.pem", "edge.key")}
    credentials = grpc.ssl_channel_credentials(certificate["ca.pem"], certificate["edge.key"], certificate["edge.pem"])
    for known in protos.public_services():
        owner = owner_of(known)
        assert owner is not None
        with grpc.secure_channel(f"localhost:{mesh.ports[f'{owner} grpc']}", credentials) as channel:
            reflected = ProtoReflectionDescriptorDatabase(channel)
            assert known.full_name in reflected.get_services()
            service = DescriptorPool(reflected).FindServiceByName(known.full_name)
            assert service.methods_by_name.keys() == known.methods_by_name.keys()
            listing = next(one for one in service.methods if one.name.startswith("List"))
            call: grpc.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
                f"/{service.full_name}/{listing.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(listing.output_type).FromString,
            )
            request = GetMessageClass(listing.input_type)(page_size=1)
            bearer = token(mesh, f"t-{secrets.token_hex(8)}", "admin")
            assert not call(request, metadata=(("authorization", f"Bearer {bearer}"),)).next_page_token


def test_the_wheels_hold_all_that_is_generated(tmp_path: Path) -> None:
    wheels, folder = python.wheels(tmp_path), tmp_path / "installed"
    for wheel in wheels:
        zipfile.ZipFile(wheel).extractall(folder)
    assert (folder / "ameide_client" / "py.typed").exists()
    program = "import ameide_client, ameide.user.v1.user_pb2 as pb; print(ameide_client.__file__, pb.__file__)"
    places = run([sys.executable, "-c", program], {**os.environ, "PYTHONPATH": str(folder)}, tmp_path).split()
    assert all(Path(place).is_relative_to(folder) for place in places)


def test_the_lock_of_npm_names_no_place() -> None:
    """Packages come from wherever the machine gets its packages."""
    lock = json.loads((typescript.PACKAGE / "package-lock.json").read_text())
    described = [one for name, one in lock["packages"].items() if name]
    assert described
    assert all("integrity" in one and "resolved" not in one for one in described)
    assert "//" not in json.dumps([{**one, "integrity": "", "funding": ""} for one in described])
