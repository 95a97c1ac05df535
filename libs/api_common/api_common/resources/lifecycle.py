"""States of a resource and the verbs that move it between them, as one table per aggregate."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from api_common.errors import FailedPreconditionError


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The verbs of ``resource``: for each, the states it may start from and the state it leads to, None to stay."""

    resource: str
    """The resource's name in messages, e.g. `workflow`."""
    transitions: Mapping[str, tuple[Set[str], str | None]]
    """`{"update": ({"DRAFT", "PUBLISHED"}, None), "publish": ({"DRAFT", "PUBLISHED"}, "PUBLISHED")}`."""

    def apply(self, verb: str, state: str) -> str:
        """Returns the state after ``verb``.

        Raises:
            FailedPreconditionError: the verb does not start from ``state``.
        """
        allowed, target = self.transitions[verb]
        if state not in allowed:
            starts = sorted(allowed)
            raise FailedPreconditionError(
                f"Cannot {verb} the {self.resource}: it is {state} and must be {' or '.join(starts)}.",
                metadata={"verb": verb, "state": state, "allowed": ",".join(starts)},
            )
        return target or state
