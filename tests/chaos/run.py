"""`make chaos`: processes are killed and frozen, Postgres crashes, connections are cut; one table says what came of it.

The short forms are services/ipas/tests/test_crashes.py and tests/e2e/test_watches.py. `python -m tests.chaos.run SAGAS
SECONDS` sets the size of the storm. No scenario takes longer than `LIMIT_SECONDS`, one that fails keeps no other from
being played, and the command fails if one did.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
from ameide.ipa.v1 import ipa_pb2 as pb

from tests.chaos.arena import LEASE_SECONDS, Arena
from tests.e2e.test_watches import LONG

LIMIT_SECONDS: Final = 300
"""How long one scenario may take beside what the storm is told to: five times what it needs on two busy cores."""

ALL, NOTHING = (1, 1), (0, 0)
INSTANTS = {"deploys": 16, "fails": 25, "retires": 16}
"""As services/ipas/tests/test_crashes.py counts them: before and after every write and every effect."""


async def kill_at_every_instant(arena: Arena, story: str) -> str:
    """Kill -9 at each instant; another process, which was frozen until then, finishes."""
    slowest = 0.0
    with arena.worker() as standby:
        await standby.works()
        for instant in range(INSTANTS[story]):
            standby.send(signal.SIGSTOP)
            deployment = await begin(arena, story, standby)
            with arena.worker(die_at=instant) as dying:
                code = await dying.died()
                assert code == 9, f"{story}: it ended with {code} and did not come to instant {instant}"
            started = time.monotonic()
            standby.send(signal.SIGCONT)
            await check(arena, story, deployment)
            slowest = max(slowest, time.monotonic() - started)
    return f"{INSTANTS[story]} of {INSTANTS[story]} as they should; finished {slowest:.1f} s after the crash at most"


async def begin(arena: Arena, story: str, standby: Any) -> pb.Deployment:
    deployment = await arena.deploy(arena.unfit if story == "fails" else arena.ready)
    if story == "retires":
        standby.send(signal.SIGCONT)
        assert await arena.settled(deployment) == "DEPLOYED"
        standby.send(signal.SIGSTOP)
        deployment = await arena.retire(deployment)
    return deployment


async def check(arena: Arena, story: str, deployment: pb.Deployment) -> None:
    """What a story must end with: all or nothing."""
    expected = {"deploys": ("DEPLOYED", ALL), "fails": ("FAILED", NOTHING), "retires": ("RETIRED", NOTHING)}
    found = await arena.settled(deployment), await arena.held(deployment)
    assert found == expected[story], f"{story}: {found}"


async def freeze_past_the_lease(arena: Arena, rounds: int = 10) -> str:
    """Two workers; one is frozen in the middle of its work for longer than its lease, then goes on."""
    with arena.worker() as first, arena.worker() as second:
        await first.works()
        await second.works()
        for number in range(rounds):
            deployments = [await arena.deploy(arena.ready if number % 2 else arena.unfit) for _ in range(5)]
            victim = random.choice((first, second))
            victim.send(signal.SIGSTOP)
            await asyncio.sleep(2 * LEASE_SECONDS)
            victim.send(signal.SIGCONT)
            for deployment in deployments:
                await check(arena, "deploys" if number % 2 else "fails", deployment)
    return f"{rounds * 5} of {rounds * 5} as they should"


async def outage(arena: Arena, sagas: int, seconds: float) -> str:
    """The agents service is away while deployments begin; then the longest pause may pass until the last one ends."""
    with arena.worker() as first, arena.worker() as second:
        await first.works()
        await second.works()
        # Creating an IPA asks agents, too.
        ipas = [await arena.create(arena.ready) for _ in range(sagas)]
        await arena.agents_door.cut()
        deployments = [await arena.begin(ipa) for ipa in ipas]
        await asyncio.sleep(seconds)
        await arena.agents_door.restore()
        restored = time.monotonic()
        ends = Counter([(await arena.settled(one), await arena.held(one)) for one in deployments])
        last = time.monotonic() - restored
    assert set(ends) == {("DEPLOYED", ALL)}, ends
    return f"{sagas} of {sagas} DEPLOYED, the last one {last:.0f} s after agents was back"


async def storm(arena: Arena, sagas: int, seconds: float) -> str:
    """Postgres crashes every 2 to 5 s, workers are killed, under many sagas; all that was acknowledged is there."""
    crashes: Counter[str] = Counter()
    begun: list[tuple[str, pb.Deployment]] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(arena.worker()) for _ in range(2)]
        for worker in workers:
            await worker.works()

        async def rage() -> None:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await asyncio.sleep(random.uniform(2, 5))
                with suppress(OSError, asyncpg.PostgresError):
                    await arena.crash_postgres()
                    crashes["Postgres"] += 1
                if crashes["Postgres"] % 3 == 0:
                    workers.pop(0).send(signal.SIGKILL)
                    workers.append(stack.enter_context(arena.worker()))
                    crashes["worker"] += 1

        async def create(count: int) -> None:
            for _ in range(count):
                story = random.choice(("deploys", "fails"))
                fields = arena.ready if story == "deploys" else arena.unfit
                begun.append((story, await arena.deploy(fields)))

        raging = asyncio.create_task(rage())
        await asyncio.gather(*(create(sagas // 10) for _ in range(10)))
        await raging
        states: Counter[str] = Counter()
        for story, deployment in begun:
            await check(arena, story, deployment)
            states["DEPLOYED" if story == "deploys" else "FAILED, as their agent is not ACTIVE"] += 1
    for _, deployment in begun:
        await arena.call(arena.ipas.GetIpa, pb.GetIpaRequest(id=deployment.ipa_id))
    done = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{len(begun)} acknowledged, {len(begun)} there: {done}; {dict(crashes)} crashed"


def watch() -> str:
    """Follows changes through the edge while connections are cut and the service is killed: a test in its long form."""
    words = (sys.executable, "-m", "pytest", "-q", "tests/e2e/test_watches.py", "-k", "TestLoss")
    told = {**os.environ, "CHAOS": "long"}
    played = subprocess.run(words, env=told, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
    return f"{LONG.changes} changes, all seen, in order; {LONG.cuts} cuts, {len(LONG.restarts)} restarts"


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a scenario."""

    name: str
    seconds: float
    outcome: str
    failed: bool = False


async def play(name: str, scenario: Callable[[], Awaitable[str]], *, limit_seconds: float) -> Row:
    """Plays one scenario, and says so at once."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(limit_seconds):
            outcome, failed = await scenario(), False
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are played and the table says so
        traceback.print_exc()
        outcome, failed = f"FAILED: {(str(error) or repr(error)).splitlines()[-1]}", True
    print(f"{name}: {outcome}", file=sys.stderr)
    return Row(name, time.monotonic() - started, outcome, failed)


async def play_all(sagas: int, seconds: float) -> Sequence[Row]:
    """Plays every scenario, one after the other."""
    rows = []
    async with Arena.open() as arena:
        for story in INSTANTS:
            scenario = partial(kill_at_every_instant, arena, story)
            rows.append(await play(f"DL-1 kill -9, an IPA {story}", scenario, limit_seconds=LIMIT_SECONDS))
        scenario = partial(freeze_past_the_lease, arena)
        rows.append(await play("DL-3 frozen past its lease", scenario, limit_seconds=LIMIT_SECONDS))
        scenario = partial(outage, arena, sagas // 4, seconds)
        rows.append(await play(f"a sibling away for {seconds:.0f} s", scenario, limit_seconds=LIMIT_SECONDS + seconds))
        scenario = partial(storm, arena, sagas, seconds)
        rows.append(await play(f"DL-2, DL-8 storm of {seconds:.0f} s", scenario, limit_seconds=LIMIT_SECONDS + seconds))
    rows.append(await play("DL-7 watch", partial(asyncio.to_thread, watch), limit_seconds=LIMIT_SECONDS))
    return rows


def main(sagas: int, seconds: float) -> None:
    """Prints the table."""
    # What the services in this process say of each call is not wanted.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        rows = asyncio.run(play_all(sagas, seconds))
    print(f"\n{'scenario':<32} {'seconds':>7}  outcome")
    for row in rows:
        print(f"{row.name:<32} {row.seconds:>7.0f}  {row.outcome}")
    raise SystemExit(any(row.failed for row in rows))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
