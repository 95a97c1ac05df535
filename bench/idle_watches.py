"""Measures the cost of watches while nothing happens: `python -m bench.idle_watches --watches 1000`.

It runs one users service over mutual TLS with its Postgres. The clients run in this process, all on one connection.
Memory is the private memory of the service's process. A first crowd of watches comes and goes before, so that one-time
allocations do not count. CPU is measured over `--seconds` with the watches and without them.
"""

import argparse
import asyncio
import time
from typing import Any, Final

import grpc
import psutil
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub

from bench.contender import Program, await_all, started_service
from bench.grpc_calls import credentials_of
from bench.stage import WRITTEN, Stage, set_stage

GOAL_MB: Final = 30
_MB: Final = 1_000_000
_FIRST_CROWD: Final = 50
"""Watches that come and go before the measurement."""
_SETTLE_SECONDS: Final = 2


def _held(service: Program) -> int:
    """Returns the private memory of a process, in bytes."""
    return sum(int(psutil.Process(pid).memory_full_info().uss) for pid in service.pids())


async def _share(service: Program, seconds: float) -> float:
    """Returns the share of a core that the service uses, in per cent."""
    await asyncio.sleep(_SETTLE_SECONDS)
    cpu, begun = service.cpu_ns(), time.monotonic_ns()
    await asyncio.sleep(seconds)
    return 100 * (service.cpu_ns() - cpu) / (time.monotonic_ns() - begun)


async def measure(service: Program, stage: Stage, *, watches: int, seconds: float) -> None:
    """Prints the cost of the watches."""
    metadata = (("authorization", f"Bearer {stage.tokens[WRITTEN]}"),)
    async with grpc.aio.secure_channel(service.address, credentials_of(stage.mesh.certificates)) as channel:
        users = UserServiceStub(channel)

        async def opened(count: int) -> list[Any]:
            calls: list[Any] = [users.WatchUsers(pb.WatchUsersRequest(), metadata=metadata) for _ in range(count)]
            for call in calls:
                assert (await call.read()).HasField("bookmark")
            return calls

        for call in await opened(_FIRST_CROWD):
            call.cancel()
        without = await _share(service, seconds)
        before = _held(service)
        calls = await opened(watches)
        grown = _held(service) - before
        during = await _share(service, seconds)
        settled = _held(service) - before
        for call in calls:
            call.cancel()
    print(f"{watches} watches: {grown / _MB:+.1f} MB when they have begun, {settled / _MB:+.1f} MB after a while")
    print(f"CPU: {without:.2f} % of a core without them, {during:.2f} % with them")
    print(f"Goal: below {GOAL_MB} MB for 1,000, no CPU to be measured")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watches", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    room = dict.fromkeys(("USERS_SHARES_TENANT_WATCHES", "USERS_SHARES_PRINCIPAL_WATCHES"), "1000000")
    with set_stage() as stage, started_service("users", stage, environment=room) as service:
        await_all([service])
        asyncio.run(measure(service, stage, watches=given.watches, seconds=given.seconds))


if __name__ == "__main__":
    main()
