"""The innermost layer: a tenant-bound transaction around the handler, with the idempotency key in it."""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import Message

from api_common.call import RequestContext
from api_common.contract import MethodPolicy
from api_common.db import ConstraintErrors, Database, IdempotencyKey, Transaction
from api_common.errors import PayloadTooLargeError, SecretShownOnceError
from api_common.events import RoleChange
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
    """Runs ``handler`` inside a transaction: committed when it returns, rolled back when it raises.

    Args:
        wake: is called after the commit of a handler's writes, for the watches.
    """

    async def layer(call: Call) -> None:
        principal, request, headers = call.principal, call.request, call.headers
        assert principal is not None and request is not None  # admission ran
        key = None
        if headers.idempotency_key and not method.read_only:
            key = IdempotencyKey(headers.idempotency_key, principal=principal, method=method.path)
        work = Transaction(
            database,
            principal.tenant_id,
            constraints=constraints,
            read_only=method.read_only,
            timeout_seconds=call.seconds_left(),
            trace=call.trace,
        )
        try:
            async with work:
                if key is not None and (stored := await key.claim(work, request)) is not None:
                    if method.returns_secret:
                        raise SecretShownOnceError(
                            "The call was made before, and its secret was shown then; it is not kept."
                        )
                    call.response, call.replayed = stored, True
                    metrics.replays.labels(method.path[1:]).inc()
                    return
                context = RequestContext(
                    principal, headers.request_id, call.deadline, call.trace, call.token, transaction=work
                )
                response = await handler(request, context)
                call.response, call.effect, call.wrote = _encode(response), response, work.wrote
                call.role_changes = [effect for effect in work.effects if isinstance(effect, RoleChange)]
                if work.wrote:
                    work.on_commit(wake)
                if key is not None:
                    await key.store(work, b"" if method.returns_secret else call.response)
        finally:
            # Also when the caller was cancelled: its work may have been committed before.
            call.outcome = work.outcome

    return layer


def _encode(response: Message) -> bytes:
    """Returns the bytes of a response; gRPC would refuse to send too many of them only after the commit."""
    encoded = response.SerializeToString()
    if len(encoded) > MAX_RESPONSE_BYTES:
        raise PayloadTooLargeError(
            f"The answer would hold more than {MAX_RESPONSE_BYTES} bytes; ask for less at once.",
            metadata={"max_bytes": str(MAX_RESPONSE_BYTES)},
        )
    return encoded
