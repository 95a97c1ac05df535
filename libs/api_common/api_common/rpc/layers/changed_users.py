"""Makes a change of a user count at once in the process that made it; elsewhere within the directory's bound."""

from api_common.authz import Directory
from api_common.contract import MethodPolicy
from api_common.db import TransactionOutcome
from api_common.events import subjects
from api_common.rpc.adapter import Call, Layer


def changed_users(method: MethodPolicy, within: Layer, *, directory: Directory) -> Layer:
    """Forgets what was known of every user that a call has written, or may have."""
    if method.read_only:
        return within

    async def layer(call: Call) -> None:
        try:
            await within(call)
        finally:
            # Also when the caller has gone.
            if (
                call.outcome is not TransactionOutcome.NOTHING
                and call.effect is not None
                and call.principal is not None
            ):
                for subject in subjects(method, call.effect):
                    if subject.type == "user":
                        directory.forget(call.principal.tenant_id, subject.id)

    return layer
