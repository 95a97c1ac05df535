"""The innermost layer: a tenant-bound transaction around the handler, with the idempotency key in it."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from google.protobuf.message import Message

from api_common.call import RequestContext
from api_common.contract import MethodPolicy
from api_common.db import ConstraintErrors, Database, IdempotencyKey, ReplayedError, Transaction
from api_common.errors import ConflictError, PayloadTooLargeError
from api_common.rpc.adapter import Handler
from api_common.rpc.call import Call, Done, Layer
from api_common.telemetry import Metrics

MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
"""The largest response; a request of 10 MiB is echoed with a little more."""


class SecretShownOnceError(ConflictError):
    """The call was made before; its answer held a secret, which is not kept."""

    reason = "SECRET_SHOWN_ONCE"


def transaction(
    method: MethodPolicy,
    handler: Handler,
    *,
    database: Database,
    constraints: ConstraintErrors,
    metrics: Metrics,
    wake: Callable[[], None],
) -> Layer:
    """Runs ``handler`` inside a transaction: committed when it returns, rolled back when it raises.

    Args:
        wake: is called after the commit of a handler's writes, for the watches.
    """

    async def layer(call: Call) -> None:
        incoming, admitted, done = call.incoming, call.admitted, None
        assert admitted is not None  # admission ran
        principal, headers = admitted.principal, incoming.headers
        key = None
        if headers.idempotency_key and not method.read_only:
            values, request = headers.idempotency_key, admitted.request
            key = IdempotencyKey(values, principal=principal, method=method.path, request=request)
        work = Transaction(
            database,
            principal.tenant_id,
            constraints=constraints,
            read_only=method.read_only,
            timeout_seconds=incoming.deadline - asyncio.get_running_loop().time(),
            trace=incoming.trace,
        )

        try:
            async with work:
                if key is not None:
                    # Again after a call to a sibling: another caller with the key may have been faster meanwhile.
                    work.first, work.on_begin = key.claim, partial(key.check, work)
                    await work.begin()
                context = RequestContext(
                    principal,
                    headers.request_id,
                    incoming.deadline,
                    incoming.trace,
                    admitted.token,
                    admitted.turn,
                    transaction=work,
                )
                message = await handler(admitted.request, context)
                done = Done(_encode(message), message, work.wrote, effects=work.effects)
                if work.wrote:
                    work.on_commit(wake)
                if key is not None:
                    await key.store(work, b"" if method.returns_secret else done.response)
        except ReplayedError as replayed:
            if method.returns_secret:
                raise SecretShownOnceError(
                    "The call was made before, and its secret was shown then; it is not kept."
                ) from None
            done = Done(replayed.stored, replayed=True)
            metrics.replays.labels(method.path[1:]).inc()
        finally:
            work.on_begin = None  # It leads back to the work and the request.
            # The work may be committed although the caller was cancelled.
            call.done = None if done is None else done._replace(outcome=work.outcome)

    return layer


def _encode(response: Message) -> bytes:
    """Returns the bytes of a response, or refuses before the commit what gRPC would refuse after it."""
    encoded = response.SerializeToString()
    if len(encoded) > MAX_RESPONSE_BYTES:
        raise PayloadTooLargeError(
            f"The answer would hold more than {MAX_RESPONSE_BYTES} bytes; ask for less at once.",
            metadata={"max_bytes": str(MAX_RESPONSE_BYTES)},
        )
    return encoded
