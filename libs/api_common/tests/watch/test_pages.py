"""Many watches choose their messages from one page: the event loop serves everybody else meanwhile."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, cast

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

LONGEST_STEP_SECONDS: Final = 0.03
TEXT: Final = "ab" * 127
HEADER: Final = {"page_database": "d", "page_snapshot": "9:9:", "page_age_seconds": 0, "page_last": PAGE_SIZE}
COUNTS: Final = {"page_found": PAGE_SIZE, "page_held": PAGE_SIZE, "page_bytes": 100_000}


class Recorded(ChangePages[pb.WatchUsersResponse]):
    """Pages of changes that are read already."""

    reads = 0

    async def _rows(self, source: Source, position: Position) -> Sequence[Any]:
        self.reads += 1
        row = {f"{side} {name}": TEXT for side in (NOW, WAS) for name in FIELDS.operands}
        change = {EVENT: "updated", XID: 7, "id": IDS[0], "horizon_seq": None, "horizon_xid": None}
        return [{**HEADER, **COUNTS, **row, **change, SEQ: number} for number in range(PAGE_SIZE)]


def source(number: int) -> Source:
    """A filter of the longest kind, which has to look at everything and finds it."""
    many = "*".join("ab" * 30)
    where = parse_filter(" AND ".join([f'display_name:"{many}"', f"display_name:{'a*' * 100}"] * 2), FIELDS)
    folded = {name: where.values[name] for name in where.folding}
    return Source("acme", f"{number}", where, where.matcher(folded))


async def test_no_step_of_many_watches_holds_the_loop() -> None:
    user, tokens = pb.User(display_name=TEXT), PageTokens([Fernet.generate_key().decode()])
    pages = Recorded(
        THINGS,
        FIELDS,
        lambda _: user,
        pb.WatchUsersResponse,
        database=cast(Database, None),
        page_tokens=tokens,
        metrics=Metrics(CollectorRegistry()),
    )
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
    assert max(steps) < LONGEST_STEP_SECONDS
