"""Measures what recording changes costs CreateUser: `python -m bench.recording_cost --rounds 20`.

Every round makes the same calls to one users service with the recording trigger enabled and disabled, in alternating
order. CPU of service and Postgres is added up. The goal is 10 % at most.
"""

import argparse
import asyncio
import random
import statistics
from typing import Final

import asyncpg

from bench.contender import Contender, await_all, started_service
from bench.rounds import load_generator, paired, pairs, run_rounds, warm_up
from bench.stage import set_stage

_WORK: Final = "CreateUser"


async def _switch(url: str, *, on: bool) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"ALTER TABLE users {'ENABLE' if on else 'DISABLE'} TRIGGER record_change")
    finally:
        await connection.close()


def main() -> None:
    """Prints both figures and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m bench.recording_cost")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--scale", type=float, default=1, help="calls of a round, in those of `make bench`")
    given = parser.parse_args()
    whole: dict[bool, list[tuple[int, float]]] = {True: [], False: []}
    with set_stage() as stage, started_service("users", stage) as service, load_generator(stage) as send:
        await_all([service])
        asked = pairs([Contender(name="users", transport="mtls", programs={"users": service})], [_WORK])
        warm_up(send, asked, scale=given.scale)
        for number in range(given.rounds):
            for on in random.sample((True, False), 2):
                asyncio.run(_switch(stage.admin_url, on=on))
                (cell,) = run_rounds(stage, send, asked, rounds=1, scale=given.scale)
                whole[on].append((number, cell.whole_us))
    for on, cells in whole.items():
        name = "recorded" if on else "not recorded"
        print(f"{name:<14}{statistics.median(cost for _, cost in cells):>8,.0f} µs a call, service and Postgres")
    print(f"ratio {paired(whole[True], whole[False])}; goal 1.10")


if __name__ == "__main__":
    main()
