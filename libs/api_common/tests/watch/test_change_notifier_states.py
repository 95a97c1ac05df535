"""The notifier under every order of watches, commits and polls that hypothesis finds."""

import asyncio
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

import asyncpg
import hypothesis.strategies as st
import pytest
import uuid_utils
from api_common.db import Database
from api_common.settings import DatabaseSettings
from api_common.testing import TestDatabase
from api_common.watch.change_notifier import ChangeNotifier, Topic
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr

from libs.api_common.tests.virtual_time import VirtualTimeLoop

T = TypeVar("T")

TENANTS: Final = ["acme", "globex"]
TABLE: Final = "users"
SLACK_SECONDS: Final = 0.1 + 1e-6
"""How much later than asked a wait may end."""


@dataclass(eq=False)
class Wait:
    """A watch that waits, and what it waits for."""

    task: "asyncio.Task[None]"
    topic: Topic
    due: float
    announced: bool = False


class WaitStates(RuleBasedStateMachine):
    """Waits end by an announcement in their tenant or in time, and leave nothing behind."""

    topics = Bundle("topics")

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.notifier = ChangeNotifier(cast(Database, None))
        self.watches: dict[str, list[Topic]] = {tenant: [] for tenant in TENANTS}
        self.waits: list[Wait] = []
        self.generations: set[int] = set()

    @rule(target=topics, tenant=st.sampled_from(TENANTS))
    def begin(self, tenant: str) -> tuple[str, Topic]:
        topic = self.notifier.follow(tenant, TABLE).__enter__()
        assert all(other is topic for other in self.watches[tenant]), "watches of one tenant share a topic"
        if not self.watches[tenant]:
            assert topic.generation not in self.generations, "what was read before could be taken for new"
            self.generations.add(topic.generation)
        self.watches[tenant].append(topic)
        return tenant, topic

    @rule(watch=topics, seconds=st.sampled_from([0.05, 1.0, 30.0]))
    def wait(self, watch: tuple[str, Topic], seconds: float) -> None:
        _, topic = watch
        task = self.loop.create_task(topic.wait(topic.generation, timeout_seconds=seconds))
        self.loop.settle()
        self.waits.append(Wait(task, topic, self.loop.time() + seconds))

    @rule(watch=topics)
    def wait_for_what_is_known(self, watch: tuple[str, Topic]) -> None:
        _, topic = watch
        seen = topic.generation
        self._announce(watch[1])
        task = self.loop.create_task(topic.wait(seen, timeout_seconds=30))
        self.loop.settle()
        assert task.done(), "the announcement came before the wait and was missed"

    @rule(watch=topics)
    def announce(self, watch: tuple[str, Topic]) -> None:
        self._announce(watch[1])

    def _announce(self, topic: Topic) -> None:
        self.loop.within(topic.announce)
        assert topic.generation not in self.generations
        self.generations.add(topic.generation)
        for one in self.waits:
            one.announced |= one.topic is topic

    @rule(watch=consumes(topics))
    def leave(self, watch: tuple[str, Topic]) -> None:
        tenant, topic = watch
        topic.__exit__()
        self.watches[tenant].remove(topic)

    @rule(which=st.integers(0, 4))
    def cancel(self, which: int) -> None:
        if self.waits:
            self.waits.pop(which % len(self.waits)).task.cancel()
            self.loop.settle()

    @rule(seconds=st.sampled_from([0.02, 0.5, 1.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @invariant()
    def waits_end_when_they_should(self) -> None:
        now = self.loop.time()
        for one in self.waits:
            if one.task.done():
                assert one.announced or now >= one.due, "it woke for nothing"
            else:
                assert not one.announced, "it was not woken"
                assert now < one.due + SLACK_SECONDS, "it waits for longer than it asked for"
        self.waits = [one for one in self.waits if not one.task.done()]

    @invariant()
    def what_is_followed_is_what_is_watched(self) -> None:
        assert self.notifier.watches == sum(map(len, self.watches.values()))
        assert {tenant for tenant, _ in self.notifier._topics} == {name for name, all_ in self.watches.items() if all_}
        waiting = [waiter for turn in self.notifier._timers._waiting.values() for waiter in turn]
        assert len(waiting) == len(self.waits)

    def teardown(self) -> None:
        for one in self.waits:
            one.task.cancel()
        self.loop.settle()
        self.loop.close()


TestWaitStates = WaitStates.TestCase
TestWaitStates.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Polling:
    """A notifier over a real database, and who writes to it; used by one machine after the other."""

    def __init__(self, runner: asyncio.Runner, database: Database, writers: list[Any]) -> None:
        self._runner = runner
        self.database = database
        self.writers = writers

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)


@pytest.fixture(scope="module")
def polling(users_database: TestDatabase) -> Iterator[Polling]:
    with asyncio.Runner() as runner:
        concern = DatabaseSettings(url=SecretStr(users_database.url), pool_size=1)
        database = runner.run(Database.connect(concern, application_name="notifier"))
        writers = [runner.run(asyncpg.connect(users_database.admin_url)) for _ in range(3)]
        yield Polling(runner, database, writers)
        for writer in writers:
            runner.run(writer.close())
        runner.run(database.close())


class PollStates(RuleBasedStateMachine):
    """A poll announces every commit once and nothing else, though one that began first may commit last."""

    polling: Polling

    def __init__(self) -> None:
        super().__init__()
        self.notifier = ChangeNotifier(self.polling.database)
        self.tenants = [f"t-{uuid_utils.uuid7()}" for _ in range(2)]
        self.topics: dict[str, Topic] = {}
        self.open: dict[int, tuple[Any, str]] = {}
        self.committed: set[str] = set()
        self.is_first_poll = True

    @rule(which=st.integers(0, 1))
    def watch(self, which: int) -> None:
        tenant = self.tenants[which]
        if tenant not in self.topics:
            self.topics[tenant] = self.notifier.follow(tenant, TABLE).__enter__()

    @rule(which=st.integers(0, 1))
    def leave(self, which: int) -> None:
        if topic := self.topics.pop(self.tenants[which], None):
            topic.__exit__()

    @rule(writer=st.integers(0, 2), which=st.integers(0, 1))
    def write(self, writer: int, which: int) -> None:
        if writer not in self.open:
            transaction = self.polling.writers[writer].transaction()
            self.polling.run(transaction.start())
            self.polling.run(insert(self.polling.writers[writer], self.tenants[which]))
            self.open[writer] = transaction, self.tenants[which]

    @rule(writer=st.integers(0, 2))
    def commit(self, writer: int) -> None:
        if writer in self.open:
            transaction, tenant = self.open.pop(writer)
            self.polling.run(transaction.commit())
            self.committed.add(tenant)

    @rule(writer=st.integers(0, 2))
    def roll_back(self, writer: int) -> None:
        if writer in self.open:
            self.polling.run(self.open.pop(writer)[0].rollback())

    @rule()
    def poll(self) -> None:
        before = {tenant: topic.generation for tenant, topic in self.topics.items()}
        self.polling.run(self.notifier._poll())
        announced = {tenant for tenant, topic in self.topics.items() if topic.generation != before[tenant]}
        # What was committed before the first poll is not known, so everything is announced.
        expected = self.topics.keys() if self.is_first_poll else self.committed & self.topics.keys()
        assert announced == set(expected)
        self.is_first_poll = not self.topics
        self.committed.clear()

    def teardown(self) -> None:
        for transaction, _ in self.open.values():
            self.polling.run(transaction.rollback())


def test_a_poll_announces_every_commit_once(polling: Polling) -> None:
    PollStates.polling = polling
    run_state_machine_as_test(PollStates, settings=settings(max_examples=25, stateful_step_count=30, deadline=None))


async def insert(connection: Any, tenant: str) -> None:
    await connection.execute(
        "INSERT INTO users (tenant_id, id, display_name, state, email, created_by)"
        " VALUES ($1, $2, 'Ada', 'ACTIVE', $3, 'ada')",
        *(tenant, str(uuid_utils.uuid7()), f"{uuid_utils.uuid7()}@example.com"),
    )
