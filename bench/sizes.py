"""Measures whether reads cost more in a large table than in a small one: `python -m bench.sizes`.

It runs two users services as deployed, each over its own Postgres: one with ten users, one with a million, all of one
tenant. The unit is the CPU time of service and Postgres together, per call. Both return the same number of users.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import asyncpg
import grpc
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub

from bench.contender import Program, await_all, started_service
from bench.grpc_calls import credentials_of
from bench.rounds import paired, postgres_cpu_ns
from bench.stage import TENANT, Stage, set_stage

if TYPE_CHECKING:
    from ameide.user.v1.user_pb2_grpc import UserServiceAsyncStub

SMALL: Final = 10
GOAL: Final = 1.2
"""The goal: what a read of the large table may cost, relative to the small one."""

_PAGE: Final = 3
"""Users per page: so few that the second page of the small table still makes a token for a third one."""
Costs = dict[str, list[tuple[int, float]]]
"""By table: the rounds, and the CPU time of a call in each, in microseconds."""

_FILL: Final = f"""
    INSERT INTO users (tenant_id, id, display_name, labels, state, email, roles, create_time, update_time, created_by)
    SELECT '{TENANT}', gen_random_uuid(), 'User ' || g, jsonb_build_object('team', 'team-' || g / {_PAGE}, 'site', 'x'),
        CASE WHEN g < {_PAGE} THEN 'SUSPENDED' ELSE 'ACTIVE' END, 'user' || g || '@example.com',
        CASE WHEN g < {_PAGE} THEN ARRAY['operator'] ELSE ARRAY['viewer', 'editor'] END,
        '2026-01-01T00:00:00Z'::timestamptz + g * interval '1 s', '2026-06-01T00:00:00Z', 'somebody-' || g / {_PAGE}
    FROM generate_series(0, $1::int - 1) AS g
"""
_LISTS: Final = {
    "first page": pb.ListUsersRequest(),
    "first page by name": pb.ListUsersRequest(order_by="display_name"),
    "by state": pb.ListUsersRequest(filter="state = SUSPENDED"),
    "by label": pb.ListUsersRequest(filter="labels.team = team-0"),
    "by role": pb.ListUsersRequest(filter="roles:operator"),
    "by creator": pb.ListUsersRequest(filter="created_by = somebody-0"),
    "by time": pb.ListUsersRequest(filter=f"create_time < 2026-01-01T00:00:0{_PAGE}Z"),
}


@dataclass(frozen=True)
class Table:
    """A users service and the calls that it gets."""

    name: str
    stage: Stage
    service: Program
    users: UserServiceAsyncStub
    metadata: tuple[tuple[str, str], ...]
    ids: Sequence[str]
    deep: pb.ListUsersRequest
    """The page in the middle."""

    def calls(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """Returns the calls to measure, by name."""
        lists = {**_LISTS, "deep page": self.deep}
        return {"GetUser": self._get, **{name: partial(self._list, request) for name, request in lists.items()}}

    async def _get(self) -> None:
        request = pb.GetUserRequest(id=random.choice(self.ids))
        assert (await self.users.GetUser(request, metadata=self.metadata)).id == request.id

    async def _list(self, request: pb.ListUsersRequest) -> None:
        request.page_size = _PAGE
        assert len((await self.users.ListUsers(request, metadata=self.metadata)).users) == _PAGE


async def measure(tables: Sequence[Table], *, rounds: int, count: int) -> dict[str, Costs]:
    """Returns the cost of every call, from rounds in alternating order."""
    chance, names = random.Random(1), list(tables[0].calls())
    costs: dict[str, Costs] = {name: {table.name: [] for table in tables} for name in names}
    for number in range(-1, rounds):
        for name in chance.sample(names, len(names)):
            for table in chance.sample(tables, len(tables)):
                call = table.calls()[name]
                before = table.service.cpu_ns(), postgres_cpu_ns(table.stage)
                for _ in range(count):
                    await call()
                service, postgres = table.service.cpu_ns() - before[0], postgres_cpu_ns(table.stage) - before[1]
                # The first round only fills caches.
                if number >= 0:
                    costs[name][table.name].append((number, (service + postgres) / count / 1000))
    return costs


async def fill(stage: Stage, rows: int) -> Sequence[str]:
    """Stores ``rows`` users instead of the stage's own and returns the ids of a thousand of them."""
    connection = await asyncpg.connect(stage.admin_url)
    try:
        await connection.execute("TRUNCATE users")
        await connection.execute(_FILL, rows)
        # All tables, also that of changes; otherwise autovacuum would run during the measurement.
        for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
            await connection.execute(statement)
        found = await connection.fetch("SELECT id::text FROM users ORDER BY id LIMIT 1000")
        return [row["id"] for row in found]
    finally:
        await connection.close()


async def prepare(stage: Stage, service: Program, rows: int, connections: AsyncExitStack) -> Table:
    """Fills the table and walks to its middle."""
    ids = await fill(stage, rows)
    channel = grpc.aio.secure_channel(service.address, credentials_of(stage.mesh.certificates))
    users = UserServiceStub(await connections.enter_async_context(channel))
    metadata = (("authorization", f"Bearer {stage.tokens[TENANT]}"),)
    page_size = min(1000, rows // 2)
    request = pb.ListUsersRequest(page_size=page_size)
    for _ in range(rows // 2 // page_size):
        request.page_token = (await users.ListUsers(request, metadata=metadata)).next_page_token
    return Table(name_of(rows), stage, service, users, metadata, ids, request)


def name_of(rows: int) -> str:
    return f"{rows:,} users"


async def compare(stages: Sequence[tuple[Stage, Program, int]], *, rounds: int, count: int) -> dict[str, Costs]:
    """Fills the tables and measures them."""
    async with AsyncExitStack() as connections:
        tables = [await prepare(stage, service, rows, connections) for stage, service, rows in stages]
        return await measure(tables, rounds=rounds, count=count)


def print_table(costs: dict[str, Costs], small: str, large: str) -> bool:
    """Prints a line per call; returns whether none misses the goal by more than noise."""
    print(f"{'':<20}{small:>14}{large:>18}{'ratio':>8}{'95 %':>14}")
    reached = True
    for name, own in costs.items():
        medians = [statistics.median(cost for _, cost in own[table]) for table in (small, large)]
        ratio = paired(own[large], own[small])
        reached &= ratio.low <= GOAL
        print(f"{name:<20}{medians[0]:>14,.0f}{medians[1]:>18,.0f}    {ratio}")
    return reached


def main() -> None:
    """Prints the table; exits with 1 if the goal is missed by more than noise."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description="CPU per read, by size of table.")
    parser.add_argument("--rows", type=int, default=1_000_000, help="users in the large table (default: 1,000,000)")
    parser.add_argument("--rounds", type=int, default=20, help="how often each call is measured (default: 20)")
    parser.add_argument("--count", type=int, default=200, help="calls per round (default: 200)")
    options = parser.parse_args()
    with ExitStack() as stack:
        stages = []
        for rows in (SMALL, options.rows):
            stage = stack.enter_context(set_stage())
            service = stack.enter_context(started_service("users", stage))
            await_all([service])
            stages.append((stage, service, rows))
        costs = asyncio.run(compare(stages, rounds=options.rounds, count=options.count))
    print(f"CPU µs per call, service and Postgres; medians of {options.rounds} rounds of {options.count} calls.\n")
    reached = print_table(costs, *(name_of(rows) for rows in (SMALL, options.rows)))
    print(f"\nGoal: at most {GOAL}: {'reached, or missed within noise' if reached else 'missed'}.")
    sys.exit(0 if reached else 1)


if __name__ == "__main__":
    main()
