"""A batch of n is n single calls, for every aggregate: the same resources, in as many statements as for two."""

import json
from typing import Any, Final

import pytest
from api_common.testing import Statements
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from tests.security.world import SAMPLES, Founding, World, rpc, rpcs
from tests.services import built_services

BATCHED: Final = sorted(one.subject for one in rpcs() if one.method.name.startswith("BatchGet"))
SETTINGS: Final = {"text": 'Grüße \\ "', "number": 1e300, "yes": True, "none": None, "list": [1.5, {"x": []}]}
OWN: Final = ("id", "tenant_id", "create_time", "update_time", "delete_time")
"""What differs between two tenants that did the same."""

every_aggregate = pytest.mark.parametrize("resource", BATCHED)


class Api:
    """The RPCs of one aggregate, called by one tenant."""

    def __init__(self, world: World, resource: str) -> None:
        self.world = world
        self.resource = resource
        self.message: Any = type(SAMPLES[resource](world.ids))
        self.name = self.message.DESCRIPTOR.name

    def sample(self, number: int) -> Any:
        """Returns a new resource with as many fields as a sample of its type can have."""
        sample: Any = SAMPLES[self.resource](self.world.ids)
        sample.display_name, sample.labels["n"] = f"Number {number}", str(number)
        for field in self.message.DESCRIPTOR.fields:
            if field.message_type is not None and field.message_type.full_name == "google.protobuf.Struct":
                getattr(sample, field.name).update(SETTINGS)
            elif field.name in ("description", "instructions"):
                setattr(sample, field.name, f"{field.name} {number} 😀")
        return sample

    def mutable(self) -> list[str]:
        """Returns the fields that an update may write."""
        for built in built_services():
            mapping = built.module("mapping")
            if hasattr(mapping, f"{self.resource}_from_proto"):
                return sorted(mapping.MUTABLE)
        raise AssertionError(self.resource)

    async def single(self, verb: str, **fields: Any) -> Any:
        one = rpc(f"{verb}{self.name}")
        return await self.world.call(one, one.policy.request_class(**fields))

    async def batch(self, verb: str, *items: Any) -> list[Any]:
        one = rpc(f"Batch{verb}{self.name}s")
        request: Any = one.policy.request_class()
        getattr(request, "ids" if verb == "Get" else "requests").extend(items)
        ((_, resources),) = (await self.world.call(one, request)).ListFields()
        return list(resources)

    def request(self, verb: str, **fields: Any) -> Any:
        return rpc(f"{verb}{self.name}").policy.request_class(**fields)

    def plain(self, resources: list[Any]) -> list[dict[str, Any]]:
        """Returns the resources without what differs between tenants; ids of others by what they are."""
        shown = []
        for resource in resources:
            copy = self.message()
            copy.CopyFrom(resource)
            for name in OWN:
                copy.ClearField(name)
            text = json_format.MessageToJson(copy)
            for name, id in self.world.ids.items():
                text = text.replace(id, name)
            shown.append({**json.loads(text), "deleted": resource.HasField("delete_time")})
        return shown


@every_aggregate
async def test_a_batch_is_as_many_single_calls(found: Founding, resource: str) -> None:
    one, many = Api(await found(), resource), Api(await found(), resource)
    names = one.mutable()
    masks = [[], ["*"], ["state"], names[:2], names[-2:], *([name] for name in names)]
    samples = [(one.sample(number), many.sample(number)) for number in range(len(masks))]
    for mine, theirs in samples:
        # Samples are not alike where values must be unique.
        if hasattr(mine, "email"):
            theirs.email = mine.email
    singles = [await one.single("Create", **{resource: mine}) for mine, _ in samples]
    batch = await many.batch("Create", *(many.request("Create", **{resource: theirs}) for _, theirs in samples))
    assert one.plain(singles) == many.plain(batch)

    def changes(api: Api, existing: list[Any]) -> list[Any]:
        requests = []
        for number, (paths, before) in enumerate(zip(masks, existing, strict=True)):
            changed: Any = SAMPLES[resource](api.world.ids)
            changed.id, changed.etag, changed.display_name = before.id, before.etag, f"New {number}"
            if hasattr(changed, "email"):
                changed.email = f"new{number}@example.com"
            mask = FieldMask(paths=paths) if paths else None
            requests.append(api.request("Update", **{resource: changed}, update_mask=mask))
        return requests

    singles = [
        await one.single("Update", **{resource: getattr(request, resource)}, update_mask=request.update_mask)
        for request in changes(one, singles)
    ]
    batch = await many.batch("Update", *changes(many, batch)[::-1])
    assert one.plain(singles[::-1]) == many.plain(batch)
    assert await many.batch("Get", *(stored.id for stored in batch)) == batch

    singles = [await one.single("Delete", id=stored.id, etag=stored.etag) for stored in singles[::-1][:3]]
    deletions = [many.request("Delete", id=stored.id, etag=stored.etag) for stored in batch[:3]]
    deleted = await many.batch("Delete", *deletions)
    assert one.plain(singles) == many.plain(deleted)
    assert await many.batch("Get", *(stored.id for stored in batch)) == deleted + batch[3:]


@every_aggregate
async def test_twenty_take_as_many_statements_as_two(found: Founding, resource: str, statements: Statements) -> None:
    api = Api(await found(), resource)
    counts = []
    for count in (2, 20):
        counted = []
        statements.clear()
        creations = [api.request("Create", **{resource: api.sample(number)}) for number in range(count)]
        several = await api.batch("Create", *creations)
        counted.append(len(statements))
        statements.clear()
        changes = [api.request("Update", **{resource: stored}) for stored in several]
        for number, change in enumerate(changes):
            getattr(change, resource).labels["changed"] = str(number)
        await api.batch("Update", *changes)
        counted.append(len(statements))
        statements.clear()
        await api.batch("Get", *(stored.id for stored in several))
        counted.append(len(statements))
        statements.clear()
        await api.batch("Delete", *(api.request("Delete", id=stored.id) for stored in several))
        counted.append(len(statements))
        counts.append(counted)
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 4
