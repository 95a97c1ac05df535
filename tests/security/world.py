"""Tenants with one of everything, and a good request for every RPC, made from the descriptors.

A new resource needs a line in `SAMPLES`; an RPC that does not work on what was just created, one in `PREPARATIONS`; an
id whose name does not say what it names, one in `REFERENCES`. Nothing else is listed, so nothing can be forgotten.
"""

import importlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import grpc
import pytest
import uuid_utils
from ameide.edge.v1 import ext_authz_pb2
from ameide.ipa.v1 import ipa_pb2
from ameide.ipa.v1.ipa_pb2_grpc import IpaServiceStub
from ameide.user.v1 import service_account_pb2
from ameide.workflow.v1 import workflow_pb2
from api_common.contract import MethodPolicy, has_behavior, read_policies
from api_common.testing import Caller, TestDatabase, TestService
from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from services.agents.tests.factories import an_agent
from services.ipas.tests.factories import an_ipa, settled
from services.users.tests.factories import a_user, an_account
from services.workflows.tests.factories import a_definition, a_node, a_workflow
from tests import protos
from tests.services import owner_of

Ids = Mapping[str, str]
"""The id of a tenant's resource of each type."""

WHERE: Final = "tests/security/world.py"


def _of_services(name: str) -> dict[str, Any]:
    """Returns what the factories of services say themselves in a table of this ``name``."""
    paths = sorted(protos.ROOT.glob("services/*/tests/factories.py"))
    modules = [importlib.import_module(f"services.{path.parts[-3]}.tests.factories") for path in paths]
    return {key: value for module in modules for key, value in getattr(module, name, {}).items()}


SAMPLES: Final[Mapping[str, Callable[[Ids], Message]]] = {
    "user": lambda ids: a_user(roles=["viewer"]),
    "service_account": lambda ids: an_account(),
    "api_key": lambda ids: service_account_pb2.ApiKey(display_name="Key"),
    "workflow": lambda ids: a_workflow(definition=a_definition(a_node("ask", workflow_pb2.Node.AGENT))),
    "agent": lambda ids: an_agent(),
    "ipa": lambda ids: an_ipa(workflow_id=ids["workflow"], agent_bindings={"ask": ids["agent"]}),
    **_of_services("SAMPLES"),
}
"""Each resource as it may be created, with every id that it has room for, after those that it names."""

PREPARATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "UndeleteUser": ("DeleteUser",),
    "ActivateUser": ("SuspendUser",),
    "UndeleteServiceAccount": ("DeleteServiceAccount",),
    "EnableServiceAccount": ("DisableServiceAccount",),
    "UndeleteWorkflow": ("DeleteWorkflow",),
    "ArchiveWorkflow": ("PublishWorkflow",),
    "GetWorkflowRevision": ("PublishWorkflow",),
    "UndeleteAgent": ("DeleteAgent",),
    "DisableAgent": ("ActivateAgent",),
    "UndeleteIpa": ("DeleteIpa",),
    "RetireIpa": ("DeployIpa",),
    "GetDeployment": ("DeployIpa",),
    "ResumeDeployment": ("DeployIpa",),
    **_of_services("PREPARATIONS"),
}
"""What must have happened to a new resource before the RPC works on it."""

MADE_BY: Final[Mapping[str, str]] = {"workflow_revision": "PublishWorkflow", "deployment": "DeployIpa"}
"""What is not created but comes out of another RPC; until then its id names nothing."""

ACTS_ON: Final[Mapping[str, str]] = {"DeployIpa": "ipa", "RetireIpa": "ipa"}
"""What an RPC is about that answers with something else."""

REFERENCES: Final[Mapping[str, str]] = {"ameide.ipa.v1.Ipa.agent_bindings": "agent"}
"""What an id names whose field is not called `id` or `<resource>_id`."""

NO_IDS: Final = frozenset({"ameide.workflow.v1.Node.id"})
"""Fields that are called like ids and name nothing but a part of the same message."""

NUMBERS: Final = {"revision": 1}
"""What else a request needs."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service and where its rows are."""

    service: TestService
    database: TestDatabase


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC of a running service."""

    method: MethodDescriptor
    policy: MethodPolicy

    @property
    def service(self) -> str:
        """The name of the service that implements it."""
        owner = owner_of(self.method.containing_service)
        assert owner is not None, f"no service implements {self.method.containing_service.full_name}"
        return owner.service.name

    def ids(self) -> list["IdField"]:
        """Returns every field of the request that names a resource."""
        return list(_ids(self.method.input_type, (), self.subject))

    @property
    def subject(self) -> str:
        """The type of the resource that the RPC is about."""
        if self.method.name in ACTS_ON:
            return ACTS_ON[self.method.name]
        output = self.method.output_type
        messages = [(kind, field) for field in output.fields if (kind := field.message_type) is not None]
        held = [kind for kind, field in messages if field.is_repeated or "id" in kind.fields_by_name]
        return snake(output.name if "id" in output.fields_by_name or not held else held[0].name)

    @property
    def creates(self) -> bool:
        """Whether ids in the request's own resources are the server's to choose."""
        return self.method.name.startswith(("Create", "BatchCreate"))

    def __str__(self) -> str:
        return self.method.name


@dataclass(frozen=True, slots=True)
class IdField:
    """A place in a request that holds an id; of a list of messages the first one."""

    path: tuple[str, ...]
    names: str
    """The type of the resource."""
    output_only: bool
    """What a client writes there does not count."""

    def put(self, request: Message, id: str) -> None:
        """Writes the id."""
        holder: Any = request
        for name in self.path[:-1]:
            inner = getattr(holder, name)
            holder = inner[0] if holder.DESCRIPTOR.fields_by_name[name].is_repeated else inner
        field = holder.DESCRIPTOR.fields_by_name[self.path[-1]]
        if protos.is_map_entry(field.message_type) if field.message_type else False:
            if not (keys := list(getattr(holder, field.name))):
                pytest.fail(f"{self} is empty: fill it in SAMPLES in {WHERE}")
            for key in keys:
                getattr(holder, field.name)[key] = id
        elif field.is_repeated:
            getattr(holder, field.name)[:] = [id]
        else:
            setattr(holder, field.name, id)

    def __str__(self) -> str:
        return ".".join(self.path)


@cache
def rpcs() -> tuple[Rpc, ...]:
    """Every RPC that clients may call."""
    return tuple(_rpc(method) for method in protos.public_methods())


@cache
def internal_rpcs() -> tuple[Rpc, ...]:
    """Every RPC that only services of the mesh may call."""
    return tuple(_rpc(method) for method in protos.internal_methods())


def rpc(name: str) -> Rpc:
    """Returns the RPC of this name."""
    return next(one for one in rpcs() if one.method.name == name)


@dataclass(frozen=True, slots=True)
class World:
    """A tenant with one of everything."""

    mesh: Mapping[str, Running]
    caller: Caller
    ids: dict[str, str]

    async def call(self, rpc: Rpc, request: Message, *, caller: Caller | None = None, key: str = "") -> Any:
        """Calls ``rpc`` as this tenant's administrator, or as ``caller``; returns when its work is done, too."""
        metadata = (caller or self.caller).metadata + ((("idempotency-key", key),) if key else ())
        response = await self.send(rpc, request, metadata)
        if isinstance(response, ipa_pb2.Deployment):
            if caller is None:
                self.ids["deployment"] = response.id
            await settled(IpaServiceStub(self.mesh["ipas"].service.channel), caller or self.caller, response)
        return response

    async def send(self, rpc: Rpc, request: Message, metadata: tuple[tuple[str, str], ...]) -> Any:
        if rpc.policy.is_stream:
            channel = self.mesh[rpc.service].service.channel
            first = await ask(rpc, channel, request.SerializeToString(), metadata)
            return rpc.policy.response_class.FromString(first)
        return await self.start(rpc, request, metadata)

    def start(
        self, rpc: Rpc, request: Message, metadata: tuple[tuple[str, str], ...]
    ) -> "grpc.aio.UnaryUnaryCall[Any, Any]":
        method: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = self.mesh[rpc.service].service.channel.unary_unary(
            rpc.policy.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=rpc.policy.response_class.FromString,
        )
        return method(request, metadata=metadata)

    def stream(self, rpc: Rpc) -> "grpc.aio.UnaryStreamMultiCallable[Any, Any]":
        """Returns what a watch of ``rpc`` begins with."""
        return self.mesh[rpc.service].service.channel.unary_stream(
            rpc.policy.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=rpc.policy.response_class.FromString,
        )

    async def prepare(self, one: Rpc) -> None:
        """Brings this tenant's resources to where ``one`` works on them."""
        for name in PREPARATIONS.get(one.method.name, ()):
            await self.call(rpc(name), self.request(rpc(name)))

    def request(self, rpc: Rpc) -> Any:
        """Returns a request of ``rpc`` for this tenant's own resources."""
        request = rpc.policy.request_class()
        _fill(request, self.ids)
        for field in rpc.ids():
            if not rpc.creates or field.path[-1] != "id":
                field.put(request, self.ids[field.names])
        return request


async def ask(one: Rpc, channel: grpc.aio.Channel, payload: bytes, metadata: tuple[tuple[str, str], ...]) -> bytes:
    """Calls ``one`` and returns the answer, or the first message of a stream."""
    if not one.policy.is_stream:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(one.policy.path)
        return await method(payload, metadata=metadata)
    stream: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(one.policy.path)
    call = stream(payload, metadata=metadata)
    try:
        first = await call.read()
    finally:
        call.cancel()
    assert isinstance(first, bytes), "a stream that ends with neither message nor error"
    return first


@dataclass(frozen=True, slots=True)
class Program:
    """A service account with an API key."""

    world: World
    account_id: str
    secret: str

    async def caller(self) -> Caller:
        """Exchanges the key as the edge does it, for a token that lives for a minute."""
        check: grpc.aio.UnaryUnaryMultiCallable[Any, Any] = self.world.mesh["users"].service.channel.unary_unary(
            "/envoy.service.auth.v3.Authorization/Check",
            request_serializer=ext_authz_pb2.CheckRequest.SerializeToString,
            response_deserializer=ext_authz_pb2.CheckResponse.FromString,
        )
        http = ext_authz_pb2.AttributeContext.HttpRequest(headers={"x-api-key": self.secret})
        asked = ext_authz_pb2.AttributeContext(request=ext_authz_pb2.AttributeContext.Request(http=http))
        (option,) = (await check(ext_authz_pb2.CheckRequest(attributes=asked))).ok_response.headers
        return Caller(option.header.value.removeprefix("Bearer "), self.world.caller.tenant_id, self.account_id)


async def make_program(world: World, *roles: str) -> Program:
    """Makes a program in ``world``."""
    create, create_key = rpc("CreateServiceAccount"), rpc("CreateApiKey")
    account = await world.call(
        create, service_account_pb2.CreateServiceAccountRequest(service_account=an_account(roles=roles))
    )
    request = create_key.policy.request_class(service_account_id=account.id, api_key=SAMPLES["api_key"](world.ids))
    return Program(world, account.id, (await world.call(create_key, request)).secret)


Founding = Callable[[], Awaitable[World]]
"""Makes a tenant."""

Ground = Callable[[Rpc], Awaitable[World]]
"""Returns a tenant on which an RPC works."""


async def make_world(mesh: Mapping[str, Running], caller: Caller) -> World:
    """Creates one of everything."""
    world = World(mesh, caller, {name: str(uuid_utils.uuid7()) for name in MADE_BY})
    for resource in protos.resources():
        if snake(resource.name) not in SAMPLES:
            pytest.fail(f"{resource.full_name} is new: add a line to SAMPLES in {WHERE}")
    for name in SAMPLES:
        create = next(one for one in rpcs() if one.method.name.startswith("Create") and one.subject == name)
        created = await world.call(create, world.request(create))
        # A key comes beside its secret.
        world.ids[name] = (created if "id" in created.DESCRIPTOR.fields_by_name else getattr(created, name)).id
    return world


def snake(name: str) -> str:
    """Returns `service_account` for ServiceAccount."""
    return re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _rpc(method: MethodDescriptor) -> Rpc:
    return Rpc(method, read_policies(method.containing_service)[method.name])


def _fill(message: Any, ids: Ids) -> None:
    for field in message.DESCRIPTOR.fields:
        held = field.message_type
        if field.name in NUMBERS:
            setattr(message, field.name, NUMBERS[field.name])
        elif field.type == field.TYPE_STRING and has_behavior(field, "REQUIRED") and not _is_id(field):
            setattr(message, field.name, "x")
        elif held is None or not held.full_name.startswith("ameide.") or protos.is_map_entry(held):
            continue
        elif snake(held.name) in SAMPLES:
            getattr(message, field.name).CopyFrom(SAMPLES[snake(held.name)](ids))
        else:
            _fill(getattr(message, field.name).add() if field.is_repeated else getattr(message, field.name), ids)


def _ids(message: Descriptor, prefix: tuple[str, ...], subject: str) -> Iterator[IdField]:
    for field in message.fields:
        path = (*prefix, field.name)
        held = field.message_type
        if _is_id(field):
            yield IdField(path, _names(field, subject), has_behavior(field, "OUTPUT_ONLY"))
        elif held is not None and held.full_name.startswith("ameide.") and not protos.is_map_entry(held):
            yield from _ids(held, path, snake(held.name) if snake(held.name) in SAMPLES else subject)


def _names(field: FieldDescriptor, subject: str) -> str:
    if field.full_name in REFERENCES:
        return REFERENCES[field.full_name]
    name = subject if field.name in ("id", "ids") else re.sub("_ids?$", "", field.name)
    if name not in {*SAMPLES, *MADE_BY}:
        pytest.fail(f"what does {field.full_name} name? Add it to REFERENCES, or its resource to SAMPLES, in {WHERE}")
    return name


def _is_id(field: FieldDescriptor) -> bool:
    """Tells whether the contract declares a field, the items of a list or the values of a map to be ids."""
    rules: validate_pb2.FieldRules = protos.option(field, validate_pb2.field)
    declared = rules.string.uuid or rules.repeated.items.string.uuid or rules.map.values.string.uuid
    looks = re.search("(^|_)ids?$|^parent$", field.name) and field.full_name not in NO_IDS
    if looks and not declared and field.name != "tenant_id":
        pytest.fail(f"{field.full_name} is called like an id: give it `string.uuid`, or add it to NO_IDS in {WHERE}")
    return bool(declared)
