"""The position of a watch, and the resume token that clients keep of it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from api_common.errors import OutOfRangeError, ValidationError
from api_common.listing import InvalidPageTokenError, PageTokens

NOWHERE: Final = ""
"""The value of a snapshot or id that is not known yet."""


class InvalidResumeTokenError(ValidationError):
    """The resume token was not issued for this watch."""

    reason = "INVALID_RESUME_TOKEN"
    sentence = "The resume token was not issued for this watch."


class Phase(StrEnum):
    """The part of the stream that a watch is sending."""

    STATE = "state"
    """The existing rows, in the order of their ids."""
    SETTLING = "settling"
    """The last change of each row that changed during STATE."""
    LIVE = "live"
    """Every change."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the stream of a watch.

    A window holds the changes between two snapshots of the database: those that the later one sees and the earlier one
    does not, ordered by their numbers. So a change that is committed late is in a later window.
    """

    phase: Phase
    database: str
    """The database, and its timeline, of the snapshots."""
    seen: str
    """All changes that this snapshot sees were sent."""
    upto: str = NOWHERE
    """The snapshot that ends the current window; unknown before its first page."""
    seq: int = 0
    """The number of the last change of the window that was sent."""
    id: str = NOWHERE
    """The id of the last row that was sent in STATE."""

    def check(self, database: str, *, deleted_seq: int, deleted_xid: int) -> None:
        """Checks that no change after this position was deleted.

        Args:
            deleted_seq: the greatest number of a deleted change of the tenant; 0 for none.
            deleted_xid: the greatest number of a transaction with deleted changes; 0 for none.

        Raises:
            OutOfRangeError: one was, or the database has another history; the client needs a new watch.
        """
        if database != self.database:
            raise _too_old("The resume token is of another history of the database")
        lost = deleted_xid >= xmin(self.seen)
        if self.upto:
            lost = deleted_xid >= xmin(self.upto) or (lost and deleted_seq > self.seq)
        if lost:
            raise _too_old("The resume token is older than the changes that are kept")


def xmin(snapshot: str) -> int:
    """Returns the number of the oldest transaction that ``snapshot`` may not see.

    Source: https://www.postgresql.org/docs/18/functions-info.html, `pg_snapshot` as text is `xmin:xmax:xip_list`.
    """
    return int(snapshot.partition(":")[0])


def sees(snapshot: str, transaction: int) -> bool:
    """Tells whether ``snapshot`` sees the changes of a transaction, as `pg_visible_in_snapshot` does."""
    first, end, running = snapshot.split(":")
    return transaction < int(first) or (transaction < int(end) and str(transaction) not in running.split(","))


def is_later(snapshot: str, other: str) -> bool:
    """Tells whether ``snapshot``, of the same database, was taken later and sees more than ``other``."""

    def age(one: str) -> tuple[int, int, int]:
        first, end, running = one.split(":")
        return int(first), int(end), -len(running.split(","))

    return age(snapshot) > age(other)


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
        description = "must be a resume_token of a watch with the same filter"
        raise InvalidResumeTokenError.of("resume_token", description, "INVALID_VALUE") from error
    return Position(Phase(str(phase)), str(database), str(seen), str(upto), int(str(seq)), str(id_))


def _too_old(why: str) -> OutOfRangeError:
    return OutOfRangeError(f"{why}: resync, by a new watch with initial_state.")
