"""A deprecated RPC says when it ends, in every protocol and in every document; none is deprecated today."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from ameide.common.v1 import policy_pb2
from api_common.contract import read_policies
from api_common.errors import NotFoundError
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from tests.e2e.edge.backend import SERVICE, Backend
from tests.e2e.edge.callers import CALLERS, USERS, Ask, ask_tool
from tests.e2e.edge.plugin import Edge, Layout, running
from tests.e2e.edge.test_error_matrix import failing
from tools.clients.api import Method
from tools.contract.descriptors import ending_of
from tools.edge.build import GENERATED
from tools.edge.generate import generate
from tools.mcp.tools import tools
from tools.openapi.document import _operation
from tools.openapi.schemas import Schemas

ENDING: Final = policy_pb2.Ending(deprecated="2027-01-31", sunset="2028-02-01", link="/docs")
HEADERS: Final = {
    "deprecation": "@1801353600",
    "sunset": "Tue, 01 Feb 2028 00:00:00 GMT",
    "link": '</docs>; rel="deprecation"',
}


def contract(ending: policy_pb2.Ending = ENDING, *, deprecated: bool = True) -> FileDescriptorSet:
    """Returns the contract with a deprecated GetMe."""
    found = FileDescriptorSet.FromString((GENERATED / "ameide.pb").read_bytes())
    (service,) = (one for file in found.file for one in file.service if one.name == "UserService")
    (method,) = (one for one in service.method if one.name == "GetMe")
    options: Any = method.options
    options.deprecated = deprecated
    options.Extensions[policy_pb2.policy].ending.CopyFrom(ending)
    return found


def get_me(described: FileDescriptorSet) -> MethodDescriptor:
    pool = DescriptorPool()
    for file in described.file:
        pool.Add(file)
    return pool.FindServiceByName(SERVICE.full_name).methods_by_name["GetMe"]


@pytest.fixture(scope="module")
async def ending(layout: Layout, published: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """The edge of that contract."""
    folder: Path = tmp_path_factory.mktemp("contract")
    generate(contract(), folder)
    (folder / "ameide.pb").write_bytes(contract().SerializeToString())
    async with running(layout("ending", 3, generated=folder)) as result:
        yield result


async def test_says_so_with_every_answer(ending: Edge, backend: Backend) -> None:
    async with ending.client(headers=ending.credentials) as client:
        answer = await client.get("/v1/me")
        other = await client.get("/v1/users")
        for content_type, content in (
            ("application/proto", b""),
            ("application/json", b"{}"),
            ("application/grpc-web+proto", b"\0" * 5),
        ):
            said = await client.post(f"{USERS}/GetMe", content=content, headers={"content-type": content_type})
            assert (said.status_code, said.headers.get("grpc-status")) == (200, None), content_type
            assert {name: said.headers[name] for name in HEADERS} == HEADERS, content_type
        for codec, message in (("proto", ""), ("json", "{}")):
            parameters = {"connect": "v1", "encoding": codec, "message": message}
            said = await client.get(f"{USERS}/GetMe", params=parameters)
            assert said.status_code == 200
            assert {name: said.headers[name] for name in HEADERS} == HEADERS, f"GET {codec}"
        call_of_tool = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_me"}}
        said = await client.post("/mcp", json=call_of_tool)
        assert said.json()["result"]["isError"] is False
        assert {name: said.headers[name] for name in HEADERS} == HEADERS
    assert (answer.status_code, other.status_code) == (200, 200)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert not HEADERS.keys() & set(other.headers)
    async with ending.channel() as channel:
        method = channel.unary_unary(f"{USERS}/GetMe", request_serializer=bytes, response_deserializer=bytes)
        call = method(b"", metadata=tuple(ending.credentials.items()))
        assert await call.code() == grpc.StatusCode.OK
        assert HEADERS.items() <= dict(tuple(await call.initial_metadata())).items()
    backend.script["GetMe"] = failing(NotFoundError())
    for language, ask in {**CALLERS, "mcp": ask_tool}.items():
        refusal = await ask(ending, Ask("/v1/me", f"{USERS}/GetMe", ending.credentials))
        assert {name: refusal.headers[name] for name in HEADERS} == HEADERS, language


def test_says_so_in_the_documents() -> None:
    method = get_me(contract())
    _, _, operation = _operation(method, read_policies(SERVICE)["GetMe"], Schemas())
    words = "Deprecated since 2027-01-31, and may be gone on 2028-02-01: see /docs."
    assert operation["deprecated"] is True
    assert operation["description"].endswith(words)
    assert Method(method).comment.endswith(words)
    (tool,) = tools({"paths": {"/v1/me": {"get": operation}}, "components": {"schemas": {}}})
    assert tool.listed["description"].endswith(words)


@pytest.mark.parametrize(
    ("ending", "deprecated"),
    [
        (ENDING, False),
        (policy_pb2.Ending(), True),
        (policy_pb2.Ending(deprecated="2027-01-31", sunset="2028-02-01"), True),
    ],
)
def test_must_say_when_it_ends(ending: policy_pb2.Ending, deprecated: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"UserService\.GetMe: .* belong together"):
        generate(contract(ending, deprecated=deprecated), tmp_path)
    assert ending_of(SERVICE.methods_by_name["GetMe"]) is None
