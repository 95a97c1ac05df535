"""Turns every exception of a call into one DomainError; an unknown one is logged and answered as INTERNAL."""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from api_common.contract import MethodPolicy
from api_common.errors import AuthorizationError, DeadlineExceededError, DomainError, InternalError
from api_common.rpc.call import Call, Layer

ARRIVAL_SECONDS: Final = 10
"""How long a request may take to arrive after its headers."""

_log = structlog.get_logger()


def errors(
    method: MethodPolicy, within: Layer, *, denied: Callable[[Call, AuthorizationError], None] | None = None
) -> Layer:
    """Receives the request, ends the call at its deadline, and keeps its error for the adapter.

    Cancellation passes through. A stream checks its deadline itself (`streaming.py`): a timer for hours is a thirtieth
    of the cost of an idle one.

    Args:
        denied: audits that the caller may not do this.
    """

    async def layer(call: Call) -> None:
        incoming = call.incoming
        deadline = incoming.deadline
        try:
            async with asyncio.timeout_at(min(deadline, asyncio.get_running_loop().time() + ARRIVAL_SECONDS)) as timer:
                call.payload = await incoming.receive()
                timer.reschedule(None if method.is_stream else deadline)
                await within(call)
        except DomainError as error:
            call.error = error
            if denied is not None and isinstance(error, AuthorizationError):
                denied(call, error)
        except TimeoutError:
            call.error = DeadlineExceededError()
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets one shape and we get the log
            _log.exception(
                "unexpected error",
                method=method.path,
                request_id=incoming.headers.request_id,
                trace_id=incoming.trace.trace_id,
                span_id=incoming.trace.span_id,
            )
            call.error = InternalError()

    return layer
