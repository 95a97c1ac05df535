"""`make check-pgbouncer`: all services behind a real PgBouncer in transaction mode, as docs/scaling.md sets it up.

It needs PgBouncer 1.21 or newer, and takes four minutes. Every service talks TLS to the pooler, and has three
connections to Postgres behind it.
"""

import asyncio
import itertools
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg
import grpc
import pytest
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from api_common.db import DatabaseUrls, provision

from tests.checks.pooler import PASSWORD, ROLE_SETTINGS, SERVER_CONNECTIONS, SETTINGS, Pooler, pooling
from tests.checks.table import Table
from tests.faults.load import Load, load
from tests.faults.locks import locked, until_sessions
from tests.faults.stand import SECOND, Replica, Stand, standing
from tests.paging import all_pages
from tests.ports import reserved
from tests.upgrade.run import Client
from tools.mesh import postgres
from tools.topology import NAMED, SAFE_OFFSETS, SERVICES, Mesh

S = grpc.StatusCode
USERS: Final = NAMED["users"]
TENANTS: Final = ("acme", "globex", "initech", "umbrella")
AT_ONCE: Final = 60
EACH: Final = 75
"""Users of each tenant."""
PORT: Final = 6432
SESSION: Final = dict(re.findall(r"SET (\w+) = '(\w+)'", " ".join(ROLE_SETTINGS)))
"""What the page tells to set at each login; tests/contract/test_scaling.py compares it with our sessions."""
STEADY_SECONDS: Final = 1.0
IN_FLIGHT: Final = 2 * SERVER_CONNECTIONS
"""Calls under steady load: few enough that none waits a second for a connection to Postgres, which would refuse it."""
GONE: Final = (S.UNAVAILABLE, S.RESOURCE_EXHAUSTED, S.DEADLINE_EXCEEDED)
"""What a call may end with that waits in the pooler for a Postgres that is away, or behind such calls."""


class Administrator(Client):
    """Asks for a tenant."""

    @property
    def options(self) -> Any:
        return dict(self._options)


@dataclass
class Scene:
    """Everything that runs."""

    stand: Stand
    pooler: Pooler
    replicas: list[Replica]


async def put_behind(stand: Stand, pooler: Pooler) -> None:
    """Gives every role a password, and tells the services of the pooler instead of Postgres."""
    admin_url = await asyncio.to_thread(postgres.start, stand.mesh.postgres)
    urls = {}
    for service in SERVICES:
        words = {"application_password": PASSWORD, "owner_password": PASSWORD}
        direct = await provision(admin_url, service.name, **words)
        urls[service.name] = DatabaseUrls(application=pooler.url(service.name), owner=direct.owner)
    admin = await asyncpg.connect(admin_url)
    for login, order in itertools.product(pooler.databases.values(), ROLE_SETTINGS):
        await admin.execute(order.replace("users_login", login))
    (stand.mesh.postgres / "pg_hba.conf").write_text("local all postgres trust\nlocal all all scram-sha-256\n")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    stand.urls = urls


@asynccontextmanager
async def scene(table: Table) -> AsyncIterator[Scene]:
    """Runs Postgres, the pooler, edge, issuer, two replicas of users and one of every other service."""

    def ports(offset: int) -> list[int]:
        return [PORT + offset, *(port + move for port in Mesh(Path(), offset).ports.values() for move in (0, SECOND))]

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgbouncer")))
        folder.chmod(0o755)
        offset = stack.enter_context(reserved(SAFE_OFFSETS, ports))
        stand = await stack.enter_async_context(standing(folder, offset))
        (socket,) = parse_qs(urlsplit(stand.urls["users"].owner).query)["host"]
        logins = {service.name: f"{service.name}_login" for service in SERVICES}
        pooler = Pooler(folder / "pooler", PORT + offset, socket, stand.mesh.certificates, logins)
        await put_behind(stand, pooler)
        with table.line("without ignore_startup_parameters a service does not start, and says why") as seen:
            pooler.settings = [one for one in SETTINGS if not one.startswith("ignore_startup_parameters")]
            async with pooling(pooler):
                code, said = await stand.refusal_to_start(USERS)
            assert code != 0
            assert "unsupported startup parameter" in said, said
            seen.append(f"exit code {code}")
        pooler.settings = SETTINGS
        await stack.enter_async_context(pooling(pooler))
        replicas: list[Replica] = []
        with table.line("owner-url on Postgres migrates, url on PgBouncer serves") as seen:
            replicas += [await stand.start(service) for service in (*SERVICES, USERS)]
            seen.append("four services, two replicas of users")
        yield Scene(stand, pooler, replicas)


async def check_calls(table: Table, at: Scene, clients: dict[str, Administrator]) -> None:
    with table.line("every service reads, writes and deploys") as seen:
        client = clients["acme"]
        for number in range(100):
            await client.ask(number)
        seen.append(f"100 calls, {await client.outcome()}")
    with table.line("of two calls with one key, at once, one creates") as seen:
        made = await asyncio.gather(
            *(create(clients["acme"], f"key {n}", key=f"key-{n}") for n in range(20) for _ in "ab")
        )
        assert [one.id for one in made[::2]] == [one.id for one in made[1::2]]
        assert len({one.id for one in made}) == 20
        seen.append("40 calls, 20 users")


async def patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    """Asks until there is room, as a client does: three connections are few on busy cores."""
    for _ in range(100):
        try:
            return await ask()
        except grpc.aio.AioRpcError as error:
            if error.code() not in {S.UNAVAILABLE, S.RESOURCE_EXHAUSTED}:
                raise
            await asyncio.sleep(0.2)
    raise TimeoutError("there is no room")


async def check_tenants(table: Table, at: Scene, clients: dict[str, Administrator]) -> None:
    gate = asyncio.Semaphore(AT_ONCE)
    expected: dict[str, set[str]] = {tenant: set() for tenant in TENANTS}

    async def one(tenant: str, number: int) -> None:
        async with gate:
            client, key = clients[tenant], str(uuid_utils.uuid7())
            made = await patiently(lambda: create(client, f"{tenant} {number}", key=key))
            expected[tenant].add(made.id)
            request = pb.GetUserRequest(id=made.id)
            assert await patiently(lambda: client.users.GetUser(request, **client.options)) == made
            other = clients[TENANTS[(TENANTS.index(tenant) + 1) % len(TENANTS)]]
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await patiently(lambda: other.users.GetUser(request, **other.options))
            assert refusal.value.code() is S.NOT_FOUND, refusal.value

    async def users_of(client: Administrator) -> set[str]:
        def page(token: str) -> Awaitable[pb.ListUsersResponse]:
            return client.users.ListUsers(pb.ListUsersRequest(page_size=50, page_token=token), **client.options)

        return {user.id for one in await all_pages(page) for user in one.users}

    with table.line("each tenant sees its own rows on shared connections") as seen:
        before = {tenant: await users_of(clients[tenant]) for tenant in TENANTS}
        await asyncio.gather(*(one(tenant, number) for number in range(EACH) for tenant in TENANTS))
        for tenant in TENANTS:
            assert await users_of(clients[tenant]) == before[tenant] | expected[tenant], tenant
        connections = await connections_of(at)
        assert max(connections.values()) <= SERVER_CONNECTIONS, connections
        calls = len(TENANTS) * (3 * EACH)
        seen.append(f"{calls} calls, {AT_ONCE} at once, {max(connections.values())} connections to each database")
    with table.line("nothing of a tenant stays on a connection") as seen:
        shown = await asyncio.gather(*(leftover(at.pooler) for _ in range(30)))
        assert set(shown) == {("", 0)}, Counter(shown)
        seen.append("30 looks: no tenant is set, no row is seen")
    with table.line("the logins have the settings that PgBouncer ignores") as seen:
        for service in SERVICES:
            connection = await asyncpg.connect(at.pooler.url(service.name))
            kept = {name: await connection.fetchval(f"SELECT current_setting('{name}')") for name in SESSION}
            await connection.close()
            assert {name: minutes(value) for name, value in kept.items()} == SESSION
        seen.append(", ".join(SESSION))


def minutes(value: str) -> str:
    """Postgres shows 60s as 1min."""
    return value.replace("1min", "60s")


async def connections_of(at: Scene) -> dict[str, int]:
    """Counts the connections to each database that come from the pooler."""
    async with at.stand.operator(USERS) as operator:
        rows = await operator.fetch(
            "SELECT usename, count(*) FROM pg_stat_activity WHERE usename LIKE '%login' GROUP BY 1"
        )
    return {row["usename"]: row["count"] for row in rows}


async def leftover(pooler: Pooler) -> tuple[str, int]:
    connection = await asyncpg.connect(pooler.url("users"), statement_cache_size=0)
    try:
        found = await connection.fetchrow("SELECT current_setting('app.tenant_id', true), (SELECT count(*) FROM users)")
        assert found is not None
        return found[0] or "", found[1]
    finally:
        connection.terminate()


async def create(client: Administrator, name: str, *, key: str) -> pb.User:
    options = client.options
    options["metadata"] = (*options["metadata"], ("idempotency-key", key))
    user = pb.User(display_name=name, email=f"{key}@example.com")
    return await client.users.CreateUser(pb.CreateUserRequest(user=user), **options)


async def check_watch(table: Table, at: Scene, client: Administrator) -> None:
    with table.line("a watch hears of both replicas' commits, without NOTIFY") as seen:
        waits, heard, sent = [], set(), {}
        watch = client.users.WatchUsers(pb.WatchUsersRequest(), metadata=client.options["metadata"], timeout=120)

        async def write() -> None:
            for number in range(40):
                name = f"watched {number}"
                sent[name] = time.monotonic()
                await create(client, name, key=str(uuid_utils.uuid7()))
                await asyncio.sleep(0.05)

        writing: asyncio.Task[None] | None = None
        async for message in watch:
            if writing is None:
                writing = asyncio.create_task(write())
            if (name := message.created.display_name) in sent:
                heard.add(name)
                waits.append(time.monotonic() - sent[name])
            if len(heard) == 40:
                break
        watch.cancel()
        seen.append(f"40 changes, the latest after {max(waits):.1f} s")


async def check_statements(table: Table, at: Scene, client: Administrator) -> None:
    with table.line("a column is added and dropped under load: no call fails") as seen:
        async with at.stand.operator(USERS) as operator, load(client.write_and_read, in_flight=IN_FLIGHT) as calls:
            await calls.go_on(STEADY_SECONDS)
            await operator.execute("ALTER TABLE users ADD COLUMN probe text DEFAULT 'new'")
            await calls.go_on(STEADY_SECONDS)
            await operator.execute("ALTER TABLE users DROP COLUMN probe")
            await calls.go_on(STEADY_SECONDS)
        seen.append(told(calls))
        assert not calls.failures, Counter(calls.failures.values()).most_common(3)
    with table.line("who leaves at the deadline leaves no statement behind") as seen:
        user = await create(client, "locked", key=str(uuid_utils.uuid7()))
        async with at.stand.operator(USERS) as holder, at.stand.operator(USERS) as operator, locked(holder, user):
            leaving = (client.rename_user(user, timeout=1) for _ in range(2))
            left = await asyncio.gather(*leaving, return_exceptions=True)
            codes = {one.code() if isinstance(one, grpc.aio.AioRpcError) else one for one in left}
            # The second one waits for the first, and may be told that instead.
            assert codes <= {S.DEADLINE_EXCEEDED, S.ABORTED}, codes
            await until_sessions(operator, "wait_event_type = 'Lock'", at_most=0)
        await client.rename_user(user)
        seen.append("2 calls")


def told(calls: Load) -> str:
    return ", ".join(f"{number} {status.name}" for status, number in calls.statuses.most_common())


async def check_outages(table: Table, at: Scene, anew: Callable[[], Awaitable[Administrator]]) -> None:
    async def outage(
        name: str, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]], *allowed: grpc.StatusCode
    ) -> None:
        with table.line(name) as seen:
            client = await anew()
            async with load(client.ask, in_flight=IN_FLIGHT) as calls:
                await calls.go_on(STEADY_SECONDS)
                await begin()
                await calls.go_on(STEADY_SECONDS)
                await end()
                began = time.monotonic()
                for replica in at.replicas:
                    await replica.until_ready()
                    await at.stand.until_served(replica)
                    await until_breakers_close(replica)
                took, resumed = time.monotonic() - began, calls.asked
                await calls.go_on(STEADY_SECONDS)
            seen.append(f"{told(calls)}; ready {took:.1f} s after")
            assert set(calls.statuses) <= {S.OK, *allowed}, Counter(calls.failures.values()).most_common(5)
            late = calls.failures_since(resumed)
            assert not late, f"{len(late)} fail afterwards: {Counter(late.values()).most_common(3)}"
            await kept(at, client, calls)
            seen.append(await client.outcome())

    async def nothing() -> None:
        pass

    async def ended(how: signal.Signals) -> None:
        await asyncio.to_thread(at.pooler.end, how)

    async def started() -> None:
        at.pooler.start()
        await at.pooler.until_it_answers()

    async def replaced() -> None:
        await ended(signal.SIGINT)
        await started()

    await outage("RECONNECT renews every connection: no call fails", lambda: at.pooler.order("RECONNECT"), nothing)
    await outage("PgBouncer is told to end and started again", replaced, nothing, S.UNAVAILABLE)
    await outage("PgBouncer is killed, and away", lambda: ended(signal.SIGKILL), started, S.UNAVAILABLE)
    await outage("Postgres crashes behind PgBouncer", at.stand.crash_postgres, at.stand.start_postgres, *GONE)


async def until_breakers_close(replica: Replica) -> None:
    """Returns once the replica asks all its siblings again, which it tries every few seconds."""
    async with asyncio.timeout(60):
        while True:
            states = {name: value for name, value in (await replica.metrics()).items() if '"state": "closed"' in name}
            if all(value for name, value in states.items() if name.startswith("circuit_breaker_state")):
                return
            await asyncio.sleep(0.1)


async def kept(at: Scene, client: Administrator, calls: Load) -> None:
    """Asserts that what was answered with OK is there, and no connection is lost from a pool."""
    async with at.stand.operator(USERS) as operator:
        emails = {row["email"] for row in await operator.fetch("SELECT email FROM users")}
    created = {number for number in calls.done if number % 25 and number % 8 == 0}
    assert {client.email(number) for number in created} <= emails
    for replica in at.replicas:
        await replica.until_idle()


async def play(table: Table) -> None:
    async with scene(table) as at, at.stand.channel() as channel:

        async def anew(tenant: str = "outages") -> Administrator:
            client = Administrator(channel, at.stand.metadata(tenant))
            await client.prepare()
            return client

        clients = {tenant: await anew(tenant) for tenant in TENANTS}
        await check_calls(table, at, clients)
        await check_tenants(table, at, clients)
        await check_watch(table, at, clients["globex"])
        await check_statements(table, at, clients["initech"])
        await check_outages(table, at, anew)


def main() -> None:
    table = Table(f"Four services behind PgBouncer, {SERVER_CONNECTIONS} connections to each database")
    asyncio.run(play(table))
    table.finish()


if __name__ == "__main__":
    main()
