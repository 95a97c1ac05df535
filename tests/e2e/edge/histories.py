"""Watches as a service would answer them, which end as the filter tells: `completed, unavailable`."""

import asyncio
from typing import Any, Final

from ameide.common.v1 import watch_pb2
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import (
    AuthorizationError,
    DomainError,
    ExternalServiceError,
    OutOfRangeError,
    SlowReaderError,
    UnauthenticatedError,
    render,
)
from google.rpc import status_pb2

CHANGES: Final = 10
"""How many there are; resume tokens count them."""
AT_ONCE: Final = 2
"""How many a stream sends before it ends."""
ERRORS: Final[dict[str, DomainError]] = {
    "unavailable": ExternalServiceError("The service stops.", retry_after_seconds=0),
    "slow": SlowReaderError("Messages were not read.", retry_after_seconds=0.01),
    "expired": UnauthenticatedError("The token has expired."),
    "forbidden": AuthorizationError("Not any longer."),
    "gone": OutOfRangeError("resync"),
}


def watch_users(waiting: list[str] | None = None) -> Any:
    """Returns the script of WatchUsers: the first stream of a filter ends as its first word says, and so on.

    Args:
        waiting: the filters of streams that have sent everything and are open.
    """
    opened: dict[str, int] = {}
    waiting = [] if waiting is None else waiting

    async def answer(request: pb.WatchUsersRequest, context: Any) -> None:
        number = opened[request.filter] = opened.get(request.filter, 0) + 1
        endings = request.filter.split(", ") if request.filter else []
        ending = endings[number - 1] if number <= len(endings) else "none"
        if ending.startswith("refused "):
            await _fail(context, ERRORS[ending.removeprefix("refused ")])
        begin = int(request.resume_token or 0)
        end = CHANGES if ending == "none" else min(begin + AT_ONCE, CHANGES)
        await context.write(_message(begin, bookmark=watch_pb2.Bookmark()))
        for place in range(begin + 1, end + 1):
            user = pb.User(id=str(place))
            kind = ("created", "updated", "deleted")[place % 3]
            await context.write(_message(place, **{kind: user}))
        if ending == "none":
            waiting.append(request.filter)
            try:
                await asyncio.sleep(60)
            finally:
                waiting.remove(request.filter)
        elif ending == "completed":
            # The token of a heartbeat counts: this one leaves out a change, which nobody may ever see.
            await context.write(_message(end + 1, heartbeat=watch_pb2.Heartbeat()))
            await context.write(_message(end + 1, completed=watch_pb2.Completed()))
        else:
            await context.write(_message(end, error=status_pb2.Status(code=1)))
            await _fail(context, ERRORS[ending])

    return answer


async def _fail(context: Any, error: DomainError) -> None:
    await context.abort(*render(error, request_id="the-id"))


def _message(place: int, **event: Any) -> pb.WatchUsersResponse:
    return pb.WatchUsersResponse(resume_token=str(place), **event)
