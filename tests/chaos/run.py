"""`make chaos`: processes are killed and frozen, Postgres crashes, and a table says what became of the deployments.

The short form is services/ipas/tests/test_crashes.py. `python -m tests.chaos.run SAGAS SECONDS` sets the size of the
storm.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import asyncpg
from ameide.ipa.v1 import ipa_pb2 as pb

from tests.chaos.arena import LEASE_SECONDS, Arena

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
            state, held = await arena.settled(deployment), await arena.held(deployment)
            states[state] += 1
            # A deployment may be given up in such weather, but then nothing of it is left.
            assert (state, held) in {("DEPLOYED", ALL), ("FAILED", NOTHING)}, (state, held)
            assert story == "deploys" or state == "FAILED"
    for _, deployment in begun:
        await arena.call(arena.ipas.GetIpa, pb.GetIpaRequest(id=deployment.ipa_id))
    done = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return f"{len(begun)} acknowledged, {len(begun)} there: {done}; {dict(crashes)} crashed"


def run(sagas: int, seconds: float) -> None:
    """Plays every scenario and prints the table."""
    # What the services in this process say of each call is not wanted.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        rows = asyncio.run(play(sagas, seconds))
    print(f"\n{'scenario':<32} {'seconds':>7}  outcome")
    for name, outcome, took in rows:
        print(f"{name:<32} {took:>7.0f}  {outcome}")


async def play(sagas: int, seconds: float) -> list[tuple[str, str, float]]:
    """Returns name, outcome and seconds of each scenario."""
    rows: list[tuple[str, str, float]] = []
    async with Arena.open() as arena:
        scenarios = [
            *((f"DL-1 kill -9, an IPA {story}", kill_at_every_instant(arena, story)) for story in INSTANTS),
            ("DL-3 frozen past its lease", freeze_past_the_lease(arena)),
            (f"DL-2, DL-8 storm of {seconds:.0f} s", storm(arena, sagas, seconds)),
        ]
        for name, scenario in scenarios:
            started = time.monotonic()
            outcome = await scenario
            rows.append((name, outcome, time.monotonic() - started))
            print(f"{name}: {outcome}", file=sys.stderr)
    return rows


if __name__ == "__main__":
    run(int(sys.argv[1]), float(sys.argv[2]))
