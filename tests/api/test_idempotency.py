"""Every RPC that writes may be repeated with its key, and no key is good for another request."""

from typing import Any, Final

import grpc
import pytest
from api_common.testing import refused
from structlog.testing import capture_logs

from tests.security.world import Ground, Rpc, World, rpcs, snake

S: Final = grpc.StatusCode
KEY: Final = ("idempotency-key", "once")
REQUEST_ID: Final = ("x-request-id", "0190a1b2-0000-4000-8000-000000000001")
IDLE: Final = {"ResumeDeployment"}
"""What finds nothing to do in a world where all is well, and so has nothing to tell."""
A_FIELD_MORE: Final = b"\xfa\x7f\x02hi"
"""Field 2047, which no message of ours has."""

every_write = pytest.mark.parametrize("rpc_", [one for one in rpcs() if not one.policy.read_only], ids=str)


def changed(answer: Any) -> list[Any]:
    """Returns the resources that an answer says were changed: itself, the one beside a secret, or those of a batch."""
    if "id" in answer.DESCRIPTOR.fields_by_name:
        return [answer]
    ((field, held), *_) = answer.ListFields()
    return list(held) if field.is_repeated else [held]


@every_write
async def test_a_second_call_changes_nothing_and_gets_the_same_answer(ground: Ground, rpc_: Rpc) -> None:
    world = await ground(rpc_)
    request, metadata = world.request(rpc_), (*world.caller.metadata, KEY, REQUEST_ID)
    with capture_logs() as lines:
        first = world.start(rpc_, request, metadata)
        answer = await first
        assert ("idempotent-replayed", "true") not in tuple(await first.initial_metadata())
        if rpc_.policy.returns_secret:
            with refused(S.ALREADY_EXISTS, "SECRET_SHOWN_ONCE"):
                await world.start(rpc_, request, metadata)
        else:
            second = world.start(rpc_, request, metadata)
            assert await second == answer
            assert ("idempotent-replayed", "true") in tuple(await second.initial_metadata())
    # Tasks that the call began tell of themselves, under other ids.
    told = [line["resource"] for line in lines if line["event"] == "business" and line["request_id"] == REQUEST_ID[1]]
    resources = [] if rpc_.method.name in IDLE else changed(answer)
    assert [(one["id"], one["etag"]) for one in told] == [(one.id, getattr(one, "etag", None)) for one in resources]
    assert {one["type"] for one in told} == {snake(one.DESCRIPTOR.name) for one in resources}
    request.MergeFromString(A_FIELD_MORE)
    with refused(S.INVALID_ARGUMENT, "IDEMPOTENCY_KEY_REUSED"):
        await world.start(rpc_, request, metadata)


@every_write
async def test_a_key_that_is_none_is_refused(world: World, rpc_: Rpc) -> None:
    for keys in ([""], ["a" * 256], ["a b"], ["a", "a"]):
        metadata = (*world.caller.metadata, *(("idempotency-key", key) for key in keys))
        with refused(S.INVALID_ARGUMENT, "INVALID_REQUEST") as refusal:
            await world.start(rpc_, world.request(rpc_), metadata)
        assert set(refusal.violations) == {"idempotency-key"}
