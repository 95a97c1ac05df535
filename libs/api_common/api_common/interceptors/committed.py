"""Tells the hub of changes that a call has committed something, so that watches hear of it at once."""

from api_common.changes.hub import ChangeHub
from api_common.policy import MethodPolicy
from api_common.rpc import Call, Layer
from api_common.unit_of_work import Fate


def committed(method: MethodPolicy, within: Layer, *, hub: ChangeHub) -> Layer:
    """Wakes ``hub`` after every call that has written, or may have."""
    if method.read_only:
        return within

    async def layer(call: Call) -> None:
        try:
            await within(call)
        finally:
            # Also when the caller has gone.
            if call.fate is not Fate.NOTHING and call.wrote:
                hub.wake()

    return layer
