"""A display name is what people can read, whatever it names."""

from typing import Any, Final

import grpc
import pytest
from api_common.testing import refused

from tests.security.world import Founding, Rpc, World, rpcs

GOOD: Final = ("Ada Lovelace", "é", "O’Brien & 1/2 €", "नमस्ते", "می\u200cخواهم", "👩\u200d💻 at work", "x" * 200)
BAD: Final = (
    " ",
    "\u00a0",
    " a",
    "a ",
    "a\nb",
    "a\tb",
    "\x7f",
    "a\u0085",
    "a\u202eb",
    "\ufeffa",
    "a\u2028b",
    "\u200d",
    "e\u0301",
)


def field_of(rpc_: Rpc) -> str | None:
    """Returns the field that holds what the RPC creates, if that has a display name."""
    held = ((one.name, one.message_type) for one in rpc_.method.input_type.fields)
    return next((name for name, message in held if message and "display_name" in message.fields_by_name), None)


NAMED: Final = [one for one in rpcs() if one.method.name.startswith("Create") and field_of(one)]


@pytest.fixture(scope="module")
async def world(found: Founding) -> World:
    """A tenant whose API keys are not those of other tests."""
    return await found()


@pytest.mark.parametrize("rpc_", NAMED, ids=str)
async def test_is_what_people_can_read(world: World, rpc_: Rpc) -> None:
    field = str(field_of(rpc_))
    for name in BAD:
        request: Any = world.request(rpc_)
        getattr(request, field).display_name = name
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await world.call(rpc_, request)
        assert list(refusal.violations) == [f"{field}.display_name"], ascii(name)
    for name in GOOD:
        request = world.request(rpc_)
        getattr(request, field).display_name = name
        await world.call(rpc_, request)


async def test_is_told_apart_wherever_it_is(world: World) -> None:
    """Two names that look the same must be the same: form C of Unicode, in batches and in nodes of a workflow, too."""
    decomposed, composed = "Cafe\u0301", "Caf\u00e9"
    (batch,) = (one for one in rpcs() if one.method.name == "BatchCreateWorkflows")
    (create,) = (one for one in rpcs() if one.method.name == "CreateWorkflow")
    request: Any = batch.policy.request_class()
    for name in (composed, decomposed):
        item: Any = request.requests.add()
        item.CopyFrom(world.request(create))
        item.workflow.definition.nodes[0].display_name = name
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
        await world.call(batch, request)
    assert list(refusal.violations) == ["requests[1].workflow.definition.nodes[0].display_name"]
    request.requests[1].workflow.definition.nodes[0].display_name = composed
    await world.call(batch, request)
