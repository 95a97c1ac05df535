"""Turns whatever a call raises into one DomainError; the unknown is logged and answered with nothing of its own."""

import asyncio

import structlog

from api_common.contract import MethodPolicy
from api_common.errors import DeadlineExceededError, DomainError, InternalError
from api_common.rpc.adapter import Call, Layer

_log = structlog.get_logger()


def errors(method: MethodPolicy, within: Layer) -> Layer:
    """Ends a call at its deadline and keeps its error for the adapter; cancellation passes through.

    A stream looks at its deadline itself (`streaming.py`): a timer for hours is a thirtieth of what it costs idle.
    """

    async def layer(call: Call) -> None:
        try:
            if method.is_stream:
                await within(call)
            else:
                async with asyncio.timeout_at(call.deadline):
                    await within(call)
        except DomainError as error:
            call.error = error
        except TimeoutError:
            call.error = DeadlineExceededError("The deadline passed before the work was done.")
        except Exception:  # noqa: BLE001 - whatever it is, the caller gets one shape and we get the log
            _log.exception(
                "unexpected error",
                method=call.method.path,
                request_id=call.headers.request_id,
                trace_id=call.trace.trace_id,
                span_id=call.trace.span_id,
            )
            call.error = InternalError("Something went wrong on our side.")

    return layer
