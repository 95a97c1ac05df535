"""The Python client against the contract: every RPC, every field, every reason, in both kinds of client."""

import inspect
import json
import re
import tomllib
from typing import Any, Final

import pytest
from ameide_client import AsyncWatch, RetryPolicy, Watch, errors
from ameide_client.services import AsyncServices, Services
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from tests import protos
from tools.topology import ROOT

RPCS = protos.public_methods()
LICENCE: Final = "Nobody is licensed to use the client but by an agreement with its owner."
OPTIONS = {"timeout", "retry", "idempotency_key", "max_age", "patience_seconds"}
each_rpc = pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)


class Recorder:
    """Stands where calls leave the generated code."""

    def __init__(self) -> None:
        self.found: list[tuple[Any, Any]] = []
        self.retry = RetryPolicy()

    def unary(self, method: Any, request: Any, **options: object) -> Any:
        self.found.append((method, request))
        return method.response()

    def stream(self, method: Any, request: Any) -> Any:
        self.found.append((method, request))
        return (one for one in [method.response(created={"id": "a"})])


class AsyncRecorder(Recorder):
    async def unary(self, method: Any, request: Any, **options: object) -> Any:
        return super().unary(method, request, **options)

    async def stream(self, method: Any, request: Any) -> Any:
        messages = super().stream(method, request)

        class Call:
            async def read(self) -> Any:
                return next(messages)

            def cancel(self) -> None:
                messages.close()

        return Call()


def methods_of(services: Any) -> dict[str, Any]:
    """Returns the methods of a client by a name that tells the service, too."""
    return {
        f"{noun}.{name}": method
        for noun, service in vars(services).items()
        for name, method in inspect.getmembers(service, inspect.ismethod)
        if not name.startswith("_")
    }


def sample(field: FieldDescriptor) -> Any:
    """Returns a value that is not the default."""
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask":
        return ["display_name"]
    if protos.is_map_entry(field.message_type) if field.message_type else False:
        return {"a": "b"}
    if field.message_type is not None:
        one: Any = GetMessageClass(field.message_type)()
    else:
        kind = {FieldDescriptor.CPPTYPE_STRING: "a", FieldDescriptor.CPPTYPE_BOOL: True}
        one = kind.get(field.cpp_type, 1)
    return [one] if field.is_repeated else one


async def called(services: Any, recorder: Recorder, rpc: MethodDescriptor) -> Any:
    """Calls the method that stands for ``rpc``, with a value for each field, and returns the request it made."""
    values = {field.name: sample(field) for field in rpc.input_type.fields}
    for method in methods_of(services).values():
        if set(inspect.signature(method).parameters) - OPTIONS != set(values):
            continue
        try:
            await exhausted(method(**values))
        except TypeError:
            continue  # a batch of something else
        made, request = recorder.found.pop()
        if made.path == f"/{rpc.containing_service.full_name}/{rpc.name}":
            assert made.response.DESCRIPTOR.full_name == rpc.output_type.full_name
            assert made.writes == (rpc.GetOptions().idempotency_level != 1)
            return request
    pytest.fail(f"no method of the client calls {rpc.full_name}; run `make proto`")


async def exhausted(result: Any) -> None:
    """Waits for a call or for the first change, or goes through a list."""
    if isinstance(result, AsyncWatch):
        assert (await anext(result)).resource.id == "a"
    elif isinstance(result, Watch):
        assert next(result).resource.id == "a"
    elif inspect.isawaitable(result):
        await result
    elif hasattr(result, "__aiter__"):
        [_ async for _ in result]
    elif hasattr(result, "__iter__"):
        list(result)


@each_rpc
async def test_every_rpc_is_in_both_clients_with_every_field(rpc: MethodDescriptor) -> None:
    values = {field.name: sample(field) for field in rpc.input_type.fields}
    if "update_mask" in values:
        values["update_mask"] = {"paths": values["update_mask"]}
    expected = GetMessageClass(rpc.input_type)(**values)
    recorder, asynchronous = Recorder(), AsyncRecorder()
    assert await called(Services(recorder), recorder, rpc) == expected  # type: ignore[arg-type]
    assert await called(AsyncServices(asynchronous), asynchronous, rpc) == expected  # type: ignore[arg-type]


def test_both_clients_are_called_alike() -> None:
    one, other = methods_of(Services(Recorder())), methods_of(AsyncServices(AsyncRecorder()))  # type: ignore[arg-type]
    assert one.keys() == other.keys()
    assert len(one) == len(RPCS)
    for name, method in one.items():
        parameters = inspect.signature(method).parameters
        assert parameters == inspect.signature(other[name]).parameters
        verb = name.partition(".")[2]
        assert ("idempotency_key" in parameters) == (not verb.startswith(("get", "list", "batch_get", "watch"))), name
        assert ("patience_seconds" in parameters) == verb.startswith("watch"), name


def test_every_argument_is_explained() -> None:
    """By the comment of its field, so that an editor shows it."""
    for name, method in methods_of(Services(Recorder())).items():  # type: ignore[arg-type]
        said = inspect.getdoc(method) or ""
        for argument in inspect.signature(method).parameters:
            assert re.search(rf"^    {argument}: [A-Z`].*\w", said, re.MULTILINE), f"{name}: {argument}"
    users = inspect.getdoc(Services(Recorder()).users.list) or ""  # type: ignore[arg-type]
    assert users.startswith("Returns pages of users.")
    assert "    show_deleted: Whether the list includes deleted users." in users


def test_every_reason_has_an_error_of_its_own() -> None:
    reasons = {value.name for enum in protos.enums() if enum.name == "Reason" for value in enum.values if value.number}
    assert errors.BY_REASON.keys() == reasons
    assert len(set(errors.BY_REASON.values())) == len(reasons)
    assert all(error.__doc__ for error in errors.BY_REASON.values())


def test_both_packages_state_the_same_licence() -> None:
    """That there is none for the public: npm and PyPI have a word of their own for it."""
    python, typescript = ROOT / "clients" / "python", ROOT / "clients" / "typescript"
    assert json.loads((typescript / "package.json").read_text())["license"] == "UNLICENSED"
    project = tomllib.loads((python / "pyproject.toml").read_text())["project"]
    assert project["classifiers"] == ["License :: Other/Proprietary License"]
    stated = [(folder / "README.md").read_text().split() for folder in (python, typescript)]
    assert [" ".join(words[-14:]) for words in stated] == [LICENCE] * 2
