"""What the server owns in a resource, no request can write: each such field, by every way into the store."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
import pytest
from api_common.contract import has_behavior
from api_common.testing import NEVER
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask

from tests import protos
from tests.security.world import Rpc, World, rpc, rpcs, snake

TIME: Final = "google.protobuf.Timestamp"
MOVES: Final = {"update_time", "etag"}
"""What a write changes by itself."""

FORGED: Final[Mapping[str, Any]] = {
    "id": NEVER,
    "tenant_id": "t-forged",
    "created_by": "mallory",
    "revision": 99,
    "deployment_id": NEVER,
}


@dataclass(frozen=True, slots=True)
class Owned:
    """A field of a resource that belongs to the server."""

    message: Descriptor
    field: FieldDescriptor

    @property
    def resource(self) -> str:
        return snake(self.message.name)

    @property
    def create(self) -> Rpc:
        return rpc(f"Create{self.message.name}")

    @property
    def update(self) -> Rpc:
        return rpc(f"Update{self.message.name}")

    def batch(self, verb: str) -> Rpc | None:
        """Returns the batch method of the resource, if it has one."""
        found = (one for one in rpcs() if one.method.name.startswith(f"Batch{verb}") and one.subject == self.resource)
        return next(found, None)

    def forge(self, message: Any) -> Any:
        """Writes a value that the server would never choose, and returns it."""
        name = self.field.name
        if self.field.enum_type is not None:
            other = next(value.number for value in reversed(self.field.enum_type.values) if value.number)
            setattr(message, name, other)
        elif self.field.message_type is not None and self.field.message_type.full_name == TIME:
            getattr(message, name).FromJsonString("2001-02-03T04:05:06Z")
        else:
            assert name in FORGED, f"say in FORGED what {self.field.full_name} may be forged to"
            setattr(message, name, FORGED[name])
        return getattr(message, name)

    def __str__(self) -> str:
        return f"{self.message.name}.{self.field.name}"


def owned_fields() -> list[Owned]:
    return [
        Owned(resource, field)
        for resource in protos.resources()
        for field in resource.fields
        if any(has_behavior(field, behavior) for behavior in ("OUTPUT_ONLY", "IMMUTABLE", "IDENTIFIER"))
    ]


def updates() -> Iterator[tuple[Owned, Rpc]]:
    """Every field with every RPC that changes its resource."""
    for owned in owned_fields():
        yield owned, owned.update
        if batch := owned.batch("Update"):
            yield owned, batch


every_update = pytest.mark.parametrize(("owned", "update"), list(updates()), ids=str)
every_field = pytest.mark.parametrize("owned", owned_fields(), ids=str)


async def read(world: World, owned: Owned, id: str) -> Any:
    get = rpc(f"Get{owned.message.name}")
    return await world.call(get, get.policy.request_class(id=id))


def held(response: Any) -> list[Any]:
    """Returns the resources of a batch's answer."""
    ((_, resources),) = response.ListFields()
    return list(resources)


@every_field
async def test_create_does_not_store_it(world: World, owned: Owned) -> None:
    request = world.request(owned.create)
    forged = owned.forge(getattr(request, owned.resource))
    created = [await world.call(owned.create, request)]
    batch = owned.batch("Create")
    if batch is not None:
        several: Any = batch.policy.request_class()
        for _ in range(2):
            one = world.request(owned.create)
            owned.forge(getattr(one, owned.resource))
            several.requests.append(one)
        created += held(await world.call(batch, several))
        assert len(created) == 3
    for one in created:
        stored = await read(world, owned, one.id)
        assert stored == one
        assert getattr(stored, owned.field.name) != forged
        assert stored.tenant_id == world.caller.tenant_id


@every_update
@pytest.mark.parametrize("way", ["no mask", "star", "named"])
async def test_update_does_not_store_it(world: World, owned: Owned, update: Rpc, way: str) -> None:
    id = world.ids[owned.resource]
    before = await read(world, owned, id)
    request: Any = owned.update.policy.request_class()
    resource = getattr(request, owned.resource)
    resource.CopyFrom(before)
    resource.ClearField("etag")
    forged = owned.forge(resource)
    if owned.field.name == "id":
        # It says which one, so it cannot be forged and meant at once.
        resource.id = id
    masks = {"no mask": [], "star": ["*"], "named": [owned.field.name, "display_name"]}
    request.update_mask.CopyFrom(FieldMask(paths=masks[way]))
    if update != owned.update:
        several: Any = update.policy.request_class()
        several.requests.append(request)
        request = several
    call = world.call(update, request)
    result: object = (await asyncio.gather(call, return_exceptions=True))[0]
    if isinstance(result, grpc.aio.AioRpcError):
        assert result.code() is grpc.StatusCode.INVALID_ARGUMENT
    after = await read(world, owned, id)
    if owned.field.name != "id":
        assert getattr(after, owned.field.name) != forged
    for name in MOVES:
        before.ClearField(name)
        after.ClearField(name)
    assert after == before
