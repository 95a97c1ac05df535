"""The notifier ends when it is cancelled, also in the moment in which a commit wakes it."""

import asyncio
from typing import cast

import pytest
from api_common.db import Database
from api_common.watch.change_notifier import ChangeNotifier

TURNS = 8
"""Of the event loop, after which a woken notifier polls."""


class Quiet(ChangeNotifier):
    """Finds nothing new, without a database."""

    def __init__(self) -> None:
        super().__init__(cast(Database, None))

    async def _listen(self) -> None:
        await asyncio.Event().wait()

    async def _notify_others(self) -> None:
        pass

    async def _poll(self) -> None:
        pass


@pytest.mark.parametrize("turns", range(TURNS))
async def test_it_ends_soon_after_a_commit(turns: int) -> None:
    notifier = Quiet()
    running = asyncio.create_task(notifier.run())
    await asyncio.sleep(0.01)
    notifier.wake()
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    _, late = await asyncio.wait({running}, timeout=5)
    # Or it would hold up the test's own end.
    running.cancel()
    assert not late


class Heard(Quiet):
    """Has heard a notification on a connection that was closed meanwhile."""

    async def hear(self, database: Database) -> None:
        self._listening = await database.dedicated()
        self._listening.terminate()
        self._on_notify(self._listening, 1)


async def test_what_it_hears_at_the_end_is_no_error(database: Database) -> None:
    notifier = Heard()
    await notifier.hear(database)
    # It looks again, rather than miss a change.
    assert notifier._woken.is_set()
