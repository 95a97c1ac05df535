"""How long a stream may go on, by a clock that moves whenever somebody looks at it."""

import asyncio
import math
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from ameide.user.v1.user_pb2 import User
from api_common.authn import Principal
from api_common.errors import DeadlineExceededError
from api_common.rpc.call import Admitted
from api_common.rpc.layers import streaming
from api_common.settings import WatchSettings


@pytest.mark.parametrize("deadline", [10.5, 11.5])
@pytest.mark.parametrize("validity", [2.5, 3.5, math.inf])
async def test_a_stream_ends_for_its_deadline_and_never_for_a_look_at_the_clock(
    monkeypatch: pytest.MonkeyPatch, deadline: float, validity: float
) -> None:
    """A stream without patience would end as if it had lived long enough, and its caller would hear OK."""
    principal, ticks = Principal("ada", "acme", frozenset(), "", expires_at=math.inf), count()

    async def admit() -> Principal:
        return principal

    outgoing: Any = SimpleNamespace(unpaid=0)
    incoming: Any = SimpleNamespace(deadline=deadline, headers=SimpleNamespace(request_id=""), trace=None)
    admitted = Admitted(principal, token="", request=User(), check_again=admit)
    clock = SimpleNamespace(time=lambda: float(next(ticks)))
    monkeypatch.setattr(streaming, "asyncio", SimpleNamespace(get_running_loop=lambda: clock))
    monkeypatch.setattr(streaming, "_validity", lambda _: validity)
    context = streaming._context(incoming, outgoing, admitted, WatchSettings(), asyncio.Event())
    with pytest.raises(DeadlineExceededError):
        for _ in range(20):
            assert await context.check() > 0
