"""Measures how long a change takes to its watchers: `python -m bench.watch_latency --rate 200`, on an idle machine.

It runs one users service over mutual TLS with its Postgres; writers and watchers run in this process. The latency of a
change counts from the answer to its writer; it is 0 if the watch was quicker.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

import grpc
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub

from bench.contender import await_all, started_service
from bench.grpc_calls import credentials_of
from bench.stage import WRITTEN, set_stage

GOAL_MS: Final = 100
_WARM_UP: Final = 200
"""Changes that do not count, because they prepare statements and open connections."""


async def measure(address: str, credentials: grpc.ChannelCredentials, token: str, *, rate: int, changes: int) -> Any:
    """Returns the latency of each change from its answer and from its request, in milliseconds, sorted."""
    sent: dict[str, tuple[float, float]] = {}
    heard: dict[str, float] = {}
    metadata = (("authorization", f"Bearer {token}"),)
    numbers = count()
    async with grpc.aio.secure_channel(address, credentials) as channel:
        users = UserServiceStub(channel)
        watch = users.WatchUsers(pb.WatchUsersRequest(), metadata=metadata)
        is_current = asyncio.Event()

        async def listen() -> None:
            async for message in watch:
                if message.HasField("created"):
                    heard[message.created.id] = time.perf_counter()
                    if len(heard) == changes:
                        return
                elif message.HasField("bookmark"):
                    is_current.set()

        async def write() -> None:
            number = next(numbers)
            user = pb.User(display_name="Ada", email=f"{time.time_ns()}-{number}@example.com")
            started = time.perf_counter()
            stored = await users.CreateUser(pb.CreateUserRequest(user=user), metadata=metadata)
            sent[stored.id] = started, time.perf_counter()

        listening = asyncio.create_task(listen())
        await is_current.wait()
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for place in range(changes):
                await asyncio.sleep(max(0.0, begun + place / rate - time.perf_counter()))
                group.create_task(write())
        took = time.perf_counter() - begun
        async with asyncio.timeout(60):
            await listening
    counted = list(sent)[_WARM_UP:]
    after_answer = sorted(max(0.0, heard[id] - sent[id][1]) * 1000 for id in counted)
    after_request = sorted((heard[id] - sent[id][0]) * 1000 for id in counted)
    return changes / took, after_answer, after_request


def _line(name: str, times: Sequence[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    p50, p95, p99 = cuts[49], cuts[94], cuts[98]
    return f"{name}: p50 {p50:.1f} ms, p95 {p95:.1f}, p99 {p99:.1f}, longest {times[-1]:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--changes", type=int, default=4000)
    given = parser.parse_args()
    with set_stage() as stage, started_service("users", stage) as service:
        await_all([service])
        before = service.cpu_ns()
        measuring = measure(
            service.address,
            credentials_of(stage.mesh.certificates),
            stage.tokens[WRITTEN],
            rate=given.rate,
            changes=given.changes,
        )
        reached, after_answer, after_request = asyncio.run(measuring)
        cost = (service.cpu_ns() - before) / given.changes / 1000
    print(f"{given.changes} changes at {reached:.0f}/s of {given.rate} asked; the service's CPU {cost:.0f} µs each")
    print(_line("after the writer's answer", after_answer))
    print(_line("after the writer's request", after_request))
    late = sum(time > GOAL_MS for time in after_answer)
    print(f"Goal: below {GOAL_MS} ms after the answer; {late} of {len(after_answer)} took longer")


if __name__ == "__main__":
    main()
