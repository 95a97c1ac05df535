"""The innermost layer: a tenant-bound transaction around the handler, with the idempotency key in it."""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message

from api_common.call import RequestContext
from api_common.contract import MethodPolicy
from api_common.db import ConstraintErrors, Database, UnitOfWork, claim_key, read_key, repeat_if_stale, store_response
from api_common.errors import PayloadTooLargeError, SecretShownOnceError
from api_common.rpc.adapter import Call, Handler, Layer
from api_common.telemetry import Metrics

MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
"""The largest response; what a request of 10 MiB creates comes back with a little more."""


def transaction(
    method: MethodPolicy,
    handler: Handler,
    *,
    database: Database,
    constraints: ConstraintErrors,
    metrics: Metrics,
    wake: Callable[[], None],
) -> Layer:
    """Runs ``handler`` inside a unit of work: committed when it returns, rolled back when it raises.

    Args:
        wake: is called when what the handler wrote is committed, for the watches.
    """

    async def once(call: Call) -> None:
        principal, request = call.principal, call.request
        assert principal is not None and request is not None  # admission ran
        key = None if method.read_only else read_key(call.headers.idempotency_key)
        unit = UnitOfWork(
            database,
            principal.tenant_id,
            constraints=constraints,
            read_only=method.read_only,
            timeout_seconds=call.seconds_left(),
            trace=call.trace,
        )
        try:
            async with unit as tx:
                if key is not None:
                    stored = await claim_key(tx, key, principal=principal, method=method.path, request=request)
                    if stored is not None:
                        if method.returns_secret:
                            raise SecretShownOnceError(
                                "The call was made before, and its secret was shown then; it is not kept."
                            )
                        call.response, call.replayed = stored, True
                        metrics.replays.labels(method.path[1:]).inc()
                        return
                headers = call.headers
                context = RequestContext(
                    principal, headers.request_id, call.deadline, call.trace, call.token, transaction=tx
                )
                # The claim of a key is ours, and no effect of the handler's.
                tx.wrote = False
                response = await handler(request, context)
                call.response, call.effect, call.role_changes = _encode(response), response, tx.role_changes
                call.wrote = tx.wrote
                if tx.wrote:
                    tx.on_commit(wake)
                if key is not None:
                    kept = b"" if method.returns_secret else call.response
                    await store_response(tx, key, principal=principal, method=method.path, response=kept)
        finally:
            # Also when the caller has gone: its work may have been committed before.
            call.outcome = unit.outcome

    return lambda call: repeat_if_stale(once, call)


def _encode(response: Message) -> bytes:
    """Returns the bytes of a response; gRPC would refuse to send too many of them only after the commit."""
    encoded = response.SerializeToString()
    if len(encoded) > MAX_RESPONSE_BYTES:
        raise PayloadTooLargeError(
            f"The answer would hold more than {MAX_RESPONSE_BYTES} bytes; ask for less at once.",
            metadata={"max_bytes": str(MAX_RESPONSE_BYTES)},
        )
    return encoded
