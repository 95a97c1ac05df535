"""Watches in number."""

import asyncio
import json
import secrets
from typing import Final

from bench.attack.attacker import Attack, Attacker
from bench.attack.http1 import Http1
from bench.attack.http1 import bearer as bearer_h1
from bench.attack.http2 import Http2, Pool, bearer, grpc, message
from bench.attack.messages import field
from bench.attack.services import COLLECTIONS, rpc

_FILTER: Final = 1
"""The number of `filter` in every Watch request."""


async def all_watches(attacker: Attacker) -> None:
    """Takes all watches that one tenant can get, as fifty of its principals."""
    pool = Pool(attacker)
    async for number in attacker.paced(attacker.share(6000), rate=800):
        headers = grpc(
            rpc(COLLECTIONS[number % len(COLLECTIONS)], "Watch"), bearer(attacker.token(f"eve-{number % 50}"))
        )
        await (await pool.get()).begin(headers, message(b""))
    await attacker.hold()


async def distinct_filters(attacker: Attacker) -> None:
    """Opens watches with a filter of their own each and writes, so that every write is matched against all of them."""
    # Before the watches, because they use up the limits.
    connection, own = await Http1.open(attacker), bearer_h1(attacker.token())
    email = f"eve-{secrets.token_hex(8)}@example.com"
    user = await connection.create(f"/v1/{COLLECTIONS[0]}", own, {"displayName": "Eve", "email": email})
    watching = await Http2.open(attacker)
    async for number in attacker.paced(attacker.share(400), rate=150):
        request = field(_FILTER, f'display_name = "nobody {number}"'.encode())
        principal = f"eve-{number % 10}"
        await watching.begin(grpc(rpc(COLLECTIONS[0], "Watch"), bearer(attacker.token(principal))), message(request))
    async for number in attacker.paced(200, rate=25):
        body = json.dumps({"displayName": f"Eve {number}"}).encode()
        path = f"/v1/{COLLECTIONS[0]}/{user}?updateMask=displayName"
        await connection.call("PATCH", path, own, body)


async def opened_and_dropped(attacker: Attacker) -> None:
    """Opens watches and drops them at once, or a moment later."""
    pool = Pool(attacker)
    begun: list[tuple[Http2, int]] = []
    async for number in attacker.paced(4000, rate=300):
        connection = await pool.get()
        headers = grpc(
            rpc(COLLECTIONS[number % len(COLLECTIONS)], "Watch"), bearer(attacker.token(f"eve-{number % 50}"))
        )
        begun.append((connection, await connection.begin(headers, message(b""))))
        if len(begun) > 20:
            connection, stream = begun.pop(0)
            await connection.reset(stream)
    await asyncio.sleep(0)


ATTACKS: Final = (
    Attack("all watches", all_watches, seconds=9),
    Attack("watches with distinct filters", distinct_filters, seconds=9),
    Attack("watches opened and dropped", opened_and_dropped),
)
