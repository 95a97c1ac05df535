"""Where a watch is: what it has seen, and how clients hold on to it."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from api_common.errors import FieldViolation, InvalidPageTokenError, InvalidResumeTokenError, OutOfRangeError
from api_common.listing import PageTokens

NOWHERE: Final = ""
"""In place of a snapshot that was not taken yet."""


class Phase(StrEnum):
    """What a watch is sending."""

    STATE = "state"
    """The rows that there are, in the order of their ids."""
    SETTLING = "settling"
    """Of what has changed meanwhile, the last change of each row."""
    LIVE = "live"
    """Every change."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """How far the changes of a tenant were deleted."""

    seq: int
    """The greatest number of a deleted change; 0 for none."""
    xid: int
    """The greatest number of a transaction whose changes were deleted; 0 for none."""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in what a watch sends.

    A window leads from one snapshot of the database to a later one: it holds the changes that the later one sees and
    the earlier one does not, in the order of their numbers. So whoever commits late is in a later window.
    """

    phase: Phase
    database: str
    """Which history of which database the snapshots are of."""
    seen: str
    """What this snapshot sees was sent."""
    upto: str = NOWHERE
    """The end of the window that is being sent; before its first page it has none."""
    seq: int = 0
    """How far the window was sent."""
    id: str = NOWHERE
    """The last row that was sent of the state."""

    def settled(self, database: str, snapshot: str) -> "Position":
        """Returns the beginning of the window after ``snapshot``, which all that was sent leads up to."""
        return Position(Phase.LIVE, database, snapshot)

    def within(self, upto: str, seq: int) -> "Position":
        """Returns a place in the window that ends at ``upto``."""
        return replace(self, upto=upto, seq=seq)

    def check(self, database: str, horizon: Horizon) -> None:
        """Refuses to go on where something was deleted that was not sent.

        Raises:
            OutOfRangeError: only a new watch that begins with the state can tell what there is.
        """
        if database != self.database:
            raise _too_old("The resume token is of another history of the database")
        lost = horizon.xid >= xmin(self.seen)
        if self.upto:
            lost = horizon.xid >= xmin(self.upto) or (lost and horizon.seq > self.seq)
        if lost:
            raise _too_old("The resume token is older than the changes that are kept")


def xmin(snapshot: str) -> int:
    """Returns the number of the oldest transaction that ``snapshot`` may not see.

    Source: https://www.postgresql.org/docs/18/functions-info.html, `pg_snapshot` as text is `xmin:xmax:xip_list`.
    """
    return int(snapshot.partition(":")[0])


def seal(position: Position, tokens: PageTokens, *, binding: str) -> str:
    """Returns the resume token of ``position``."""
    parts = [position.phase.value, position.database, position.seen, position.upto, position.seq, position.id]
    return tokens.seal(parts, binding=binding)


def unseal(token: str, tokens: PageTokens, *, binding: str) -> Position:
    """Returns the position of a resume token.

    Raises:
        InvalidResumeTokenError: whatever is wrong with the token.
    """
    try:
        phase, database, seen, upto, seq, id_ = tokens.open(token, binding=binding)
    except InvalidPageTokenError as error:
        violation = FieldViolation("resume_token", "must be a resume_token of a watch with the same filter")
        raise InvalidResumeTokenError(
            "The resume token was not issued for this watch.", violations=[violation]
        ) from error
    return Position(Phase(str(phase)), str(database), str(seen), str(upto), int(str(seq)), str(id_))


def _too_old(why: str) -> OutOfRangeError:
    return OutOfRangeError(f"{why}: resync, by a new watch with initial_state.")
