"""Nothing in a process grows with the values that callers send: no list without a bound, no label of a metric."""

import asyncio
import functools
import gc
import multiprocessing
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from api_common.testing import Identity, TestDatabase, running_service, settings_for
from cachetools import Cache
from users_service.service import SERVICE

VALUES: Final = 200
AT_ONCE: Final = 50
USERS: Final = "/ameide.user.v1.UserService"


def test_nothing_grows_with_what_callers_send(users_database: TestDatabase, tmp_path: Path) -> None:
    # In a process of its own: what all other tests left in this one takes longer to look through than the calls.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        grown, new_series = process.submit(growth, users_database, tmp_path).result()
    assert grown == []
    assert new_series == set()


def growth(database: TestDatabase, folder: Path) -> tuple[list[str], set[str]]:
    """Returns the containers and the series of metrics that grew while `VALUES` callers sent what nobody had."""
    identity = Identity(folder)

    async def measure() -> tuple[list[str], set[str]]:
        async with (
            running_service(SERVICE, settings_for(database, identity)) as running,
            httpx.AsyncClient(verify=False) as client,
        ):
            metrics = f"http://127.0.0.1:{running.server.operations_port}/metrics"
            await send(running.channel, identity, range(-AT_ONCE, 0))
            labels = series((await client.get(metrics)).text)
            before = {id(one): len(one) for one in unbounded()}
            await send(running.channel, identity, range(VALUES))
            enough = VALUES // 2
            grown = [one for one in unbounded() if one is not before and len(one) > before.get(id(one), 0) + enough]
            return (
                [f"{type(one)} of {len(one)}: {repr(one)[:200]}" for one in grown],
                series((await client.get(metrics)).text) - labels,
            )

    return asyncio.run(measure())


async def send(channel: grpc.aio.Channel, identity: Identity, numbers: range) -> None:
    """Makes calls whose token, key, filter, order, page token, headers and method nobody has sent before."""

    async def one(number: int) -> None:
        caller = identity.caller(f"tenant-{number}", "viewer", f"role-{number}", subject=f"subject-{number}")
        headers = (
            *caller.metadata,
            ("idempotency-key", f"key-{number}"),
            ("user-agent", f"agent-{number}"),
            ("x-forwarded-for", f"192.0.2.{number}"),
            ("traceparent", f"00-{number & 0xFFFFFF:032x}-{number & 0xFFFFFF:016x}-00"),
        )
        text = f'display_name = "{number}"'.encode()
        requests = {
            f"{USERS}/ListUsers": b"\x1a" + bytes([len(text)]) + text,
            f"{USERS}/GetUser": b"\x0a\x24" + f"01900000-0000-7000-8000-{number & 0xFFFFFF:012x}".encode(),
            f"{USERS}/Method{number}": b"",
            f"/service.of.{number}/Call": b"",
        }
        for path, payload in requests.items():
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(path)
            await method(payload, metadata=headers).code()
        damaged: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{USERS}/ListUsers")
        await damaged(b"", metadata=(("authorization", f"Bearer a.b.{number}"),)).code()

    for start in range(0, len(numbers), AT_ONCE):
        await asyncio.gather(*(one(number) for number in numbers[start : start + AT_ONCE]))


def unbounded() -> list[Any]:
    """Returns every container of this process but those inside a cache that has a bound."""
    # A service freezes what it has when it has started; what is frozen is not listed.
    gc.unfreeze()
    gc.collect()
    kinds = (dict, list, set, deque)
    objects = gc.get_objects()
    bounded = {
        id(part)
        for cache in objects
        if isinstance(cache, Cache) or (isinstance(cache, functools._lru_cache_wrapper) and cache.cache_info().maxsize)
        for part in (*gc.get_referents(cache), *getattr(cache, "__dict__", {}).values())
    }
    found = {id(part): part for one in objects for part in (one, *gc.get_referents(one)) if isinstance(part, kinds)}
    # The event loop keeps cancelled timers until they are the half of a hundred, or their time has come.
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    own = {id(objects), id(bounded), id(timers)}
    return [one for key, one in found.items() if key not in bounded and key not in own]


def series(text: str) -> set[str]:
    """Returns the names and labels that a scrape has."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
