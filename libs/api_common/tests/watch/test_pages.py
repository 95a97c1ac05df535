"""Many watches share the pages that are read: each goes on, none goes back, and the loop serves everybody."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import pytest
from ameide.user.v1 import user_pb2 as pb
from api_common.db import Database
from api_common.listing import PageTokens, parse_filter
from api_common.telemetry import Metrics
from api_common.watch.pages import ChangePages, Source
from api_common.watch.resume_token import Phase, Position
from api_common.watch.statements import EVENT, NOW, PAGE_SIZE, SEQ, WAS, XID
from cryptography.fernet import Fernet
from prometheus_client import CollectorRegistry

from libs.api_common.tests.things import FIELDS, IDS, THINGS
from libs.api_common.tests.turns import least

LONGEST_STEP_SECONDS: Final = 0.03
TEXT: Final = "ab" * 127
HEADER: Final = {"page_database": "d", "page_snapshot": "9:9:", "page_age_seconds": 0, "page_last": PAGE_SIZE}
COUNTS: Final = {"page_found": PAGE_SIZE, "page_held": PAGE_SIZE, "page_bytes": 100_000}


class Recorded(ChangePages[pb.WatchUsersResponse]):
    """Pages of changes that are read already."""

    def __init__(self) -> None:
        super().__init__(
            THINGS,
            FIELDS,
            lambda _: pb.User(display_name=TEXT),
            pb.WatchUsersResponse,
            database=cast(Database, None),
            page_tokens=PageTokens([Fernet.generate_key().decode()]),
            metrics=Metrics(CollectorRegistry()),
        )

    async def _rows(self, source: Source, position: Position) -> Sequence[Any]:
        row = {f"{side} {name}": TEXT for side in (NOW, WAS) for name in FIELDS.operands}
        change = {EVENT: "updated", XID: 7, "id": IDS[0], "horizon_seq": None, "horizon_xid": None}
        return [{**HEADER, **COUNTS, **row, **change, SEQ: number} for number in range(PAGE_SIZE)]


class Empty(Recorded):
    """Pages without changes, each of the next of some snapshots."""

    def __init__(self, *snapshots: str) -> None:
        super().__init__()
        self.snapshots = list(snapshots)

    async def _rows(self, source: Source, position: Position) -> Sequence[Any]:
        nothing = dict.fromkeys([EVENT, "horizon_seq", "horizon_xid", "page_found", "page_held", "page_bytes"])
        return [{**HEADER, **nothing, "page_held": 0, "page_snapshot": self.snapshots.pop(0)}]


def source(number: int) -> Source:
    """A filter of the longest kind, which has to look at everything and finds it."""
    many = "*".join("ab" * 30)
    where = parse_filter(" AND ".join([f'display_name:"{many}"', f"display_name:{'a*' * 100}"] * 2), FIELDS)
    folded = {name: where.values[name] for name in where.folding}
    return Source("acme", f"{number}", where, where.matcher(folded))


async def test_no_step_of_many_watches_holds_the_loop() -> None:
    assert await least(longest_step, LONGEST_STEP_SECONDS) < LONGEST_STEP_SECONDS


async def longest_step() -> float:
    """Returns the longest step of twenty watches that look at one page."""
    pages = Recorded()
    position = Position(Phase.LIVE, "d", "5:5:")
    watches = [
        asyncio.create_task(pages.read(source(number), position, generation=1, begins=True, since=""))
        for number in range(20)
    ]
    steps: list[float] = []
    while not all(watch.done() for watch in watches):
        # CPU time of this thread: what other processes do does not count.
        begun = time.thread_time()
        await asyncio.sleep(0)
        steps.append(time.thread_time() - begun)
    assert [len((await watch).messages) for watch in watches] == [PAGE_SIZE] * 20
    assert pages.reads == 1
    return max(steps)


async def test_a_watch_does_not_read_one_page_over_and_over() -> None:
    """The poll that announced a change may have begun at the very snapshot at which the watch did."""
    pages = Empty("6:6:", "7:7:")
    first = await pages.read(source(1), Position(Phase.LIVE, "d", "5:5:"), generation=1, begins=True, since="")
    second = await pages.read(source(1), first.end, generation=2, begins=False, since="5:5:")
    assert (first.generation, first.end.seen) == (1, "6:6:")
    assert (second.generation, second.end.seen) == (2, "7:7:")


@pytest.mark.parametrize(
    ("seen", "kept"), [("9:9:", "7:7:"), ("7:9:7", "7:9:7,8"), ("8:9:", "7:9:7")], ids=["end", "running", "begin"]
)
async def test_a_page_of_another_watch_takes_none_back(seen: str, kept: str) -> None:
    """A read that was slow may have seen more than the page that another watch has read since."""
    pages = Empty(kept)
    other, ahead = Position(Phase.LIVE, "d", "6:6:"), Position(Phase.LIVE, "d", seen)
    assert (await pages.read(source(1), other, generation=2, begins=False, since="5:5:")).end.seen == kept
    page = await pages.read(source(1), ahead, generation=2, begins=False, since="5:5:")
    assert (page.generation, page.end.seen) == (2, seen)
    assert pages.reads == 1


async def test_a_read_that_is_done_is_nobodys_next_one() -> None:
    pages, position = Empty("6:6:", "7:7:"), Position(Phase.LIVE, "d", "5:5:")
    first = asyncio.create_task(pages.read(source(1), position, generation=1, begins=False, since=""))
    await asyncio.sleep(0)
    # Its read ends in the next step of the loop; this one comes right behind it.
    ahead = Position(Phase.LIVE, "d", "6:6:")
    second = asyncio.create_task(pages.read(source(1), ahead, generation=2, begins=False, since="5:5:"))
    assert ((await first).generation, (await second).generation) == (1, 2)


async def test_a_watch_catches_up_with_what_was_committed_before_it_began() -> None:
    """A page that another watch has read before may lack it, and nothing has announced it yet."""
    pages, position = Empty("6:6:", "7:7:"), Position(Phase.LIVE, "d", "5:5:")
    await pages.read(source(1), position, generation=1, begins=True, since="")
    page = await pages.read(source(1), position, generation=1, begins=True, since="", after=pages.reads)
    assert (page.is_last, page.end.seen) == (True, "7:7:")
    assert (await pages.read(source(1), position, generation=1, begins=True, since="")).end.seen == "7:7:"
    assert pages.reads == 2
