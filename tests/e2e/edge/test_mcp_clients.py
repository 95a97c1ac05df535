"""Both official clients of TypeScript get from the edge what ours of Python get (test_mcp.py)."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from ameide.user.v1 import user_pb2 as pb

from tests import node_packages
from tests.e2e.edge.backend import Backend
from tests.e2e.edge.plugin import Edge
from tests.protos import public_methods
from tools.contract.descriptors import snake

SOURCE: Final = Path(__file__).with_name("mcp-clients")


@pytest.mark.timeout(120)
async def test_the_clients_of_typescript_list_and_call(edge: Edge, backend: Backend) -> None:
    async def get(request: pb.GetUserRequest, context: Any) -> pb.User:
        return pb.User(id=request.id, display_name="Ada")

    backend.script["GetUser"] = get
    folder = node_packages.installed(SOURCE)
    shutil.copy(SOURCE / "calls.js", folder)
    process = await asyncio.create_subprocess_exec(
        *("node", "calls.js"),
        cwd=folder,
        env={**os.environ, "ENDPOINT": f"{edge.url}/mcp", "TOKEN": edge.token},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    clients = json.loads(output)
    assert clients.keys() == {"sdk", "client"}
    for found in clients.values():
        assert set(found["tools"]) == {snake(one.name) for one in public_methods() if not one.server_streaming}
        assert not found["good"]["isError"]
        assert json.loads(found["good"]["content"][0]["text"])["displayName"] == "Ada"
        assert found["refused"]["isError"]
        said = json.loads(found["refused"]["content"][0]["text"])
        assert said["details"][-1]["fieldViolations"][0]["field"] == "colour"
        assert found["nobody"] != "connected"
    assert [one.request.id for one in backend.calls] == ["1", "1"]
