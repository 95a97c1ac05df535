"""What the layers report when the caller has gone or was refused before it had a name."""

import asyncio
from collections.abc import Iterator, MutableMapping
from typing import Any, Final, cast

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import Peer, Principal
from api_common.authz import Directory
from api_common.call import RequestHeaders
from api_common.contract import read_policies
from api_common.db import Database, TransactionOutcome
from api_common.errors import AuthorizationError
from api_common.rpc import AnswerCache
from api_common.rpc.call import Call, Done, Incoming
from api_common.rpc.layers.effects import effects, record_denial
from api_common.rpc.layers.errors import errors
from api_common.telemetry import Metrics
from api_common.testing import NEVER, NoStoredUsers
from api_common.watch import ChangeNotifier
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

ADA: Final = Principal("ada", "acme", frozenset())
SUSPEND: Final = read_policies(pb.DESCRIPTOR.services_by_name["UserService"])["SuspendUser"]

Event = MutableMapping[str, Any]


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What is logged meanwhile."""
    with capture_logs() as lines:
        yield lines


def a_call(*, principal: Principal | None, peer: Peer | None = None) -> Call:
    payload, headers = pb.SuspendUserRequest(id=NEVER).SerializeToString(), RequestHeaders.read(())
    deadline = asyncio.get_running_loop().time() + 60

    async def receive() -> bytes:
        return payload

    return Call(Incoming(SUSPEND, receive, headers, deadline, headers.trace, peer), payload, principal)


@pytest.mark.parametrize(
    ("outcome", "audited", "names"),
    [
        (TransactionOutcome.COMMITTED, ["done"], ["user.suspended"]),
        (TransactionOutcome.UNKNOWN, ["unknown"], []),
        (TransactionOutcome.NOTHING, [], []),
    ],
)
async def test_effects_are_reported_when_the_caller_has_gone(
    events: list[Event], outcome: TransactionOutcome, audited: list[str], names: list[str]
) -> None:
    async def within(call: Call) -> None:
        call.done = Done(b"", pb.User(id=NEVER), wrote=True, outcome=outcome)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        cache = AnswerCache(0, ChangeNotifier(cast(Database, None)), Metrics(CollectorRegistry()))
        await effects(SUSPEND, within, directory=Directory(NoStoredUsers()), cache=cache)(a_call(principal=ADA))
    assert [event["outcome"] for event in events if event["event"] == "audit"] == audited
    told = [(event["name"], event["resource"]["id"]) for event in events if event["event"] == "business"]
    assert told == [(name, NEVER) for name in names]


async def test_the_denial_of_a_peer_names_it_by_its_certificate(events: list[Event]) -> None:
    async def within(_: Call) -> None:
        raise AuthorizationError("This service does not serve this caller.")

    call = a_call(principal=None, peer=Peer("spiffe://ameide.local/agents", b""))
    await errors(SUSPEND, within, denied=record_denial)(call)
    (event,) = events
    assert (event["outcome"], event["actor"]) == (
        "denied",
        {"subject": None, "service": "spiffe://ameide.local/agents"},
    )
    assert (event["tenant_id"], event["subject"]) == (None, {"type": "user", "id": NEVER})
