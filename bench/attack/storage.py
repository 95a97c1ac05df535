"""What keeps a database busy or fills it."""

import asyncio
import json
import secrets
from typing import Any, Final

from bench.attack.attacker import Attack, Attacker
from bench.attack.http1 import Http1, bearer

_KEY: Final = "idempotency-key"
_TOOLS: Final = [{"name": f"t{n}", "description": "x" * 9_000, "inputSchema": {"type": "object"}} for n in range(60)]
_LARGE: Final = {"displayName": "Large", "model": "model-1", "instructions": "x" * 100_000, "tools": _TOOLS}
"""An agent of more than half a megabyte."""


async def _crowd(
    attacker: Attacker, clients: int, method: str, path: str, body: dict[str, Any], **options: Any
) -> None:
    """Repeats one request on several connections; ``fresh`` names a field that differs each time."""
    rate, has_key = options.get("rate", 20.0), options.get("has_key", False)

    async def client(number: int) -> None:
        connection = await Http1.open(attacker)
        headers = bearer(attacker.token(f"eve-{number}"))
        async for _ in attacker.paced(5000, rate=rate / clients):
            if options.get("fresh"):
                body["email"] = f"{secrets.token_hex(8)}@example.com"
            extra = {_KEY: secrets.token_hex(16)} if has_key else {}
            await connection.call(method, path, {**headers, **extra}, json.dumps(body).encode())

    await asyncio.gather(*(client(number) for number in range(clients)), return_exceptions=True)


async def keyed_batches(attacker: Attacker) -> None:
    """Creates batches with idempotency keys, whose handlers wait for siblings and hold what they have."""
    connection, own = await Http1.open(attacker), bearer(attacker.token())
    nodes = [{"id": "start", "type": "START"}, {"id": "ask", "type": "AGENT"}, {"id": "end", "type": "END"}]
    edges = [{"source": "start", "target": "ask"}, {"source": "ask", "target": "end"}]
    made: list[tuple[str, dict[str, Any], str]] = [
        ("workflows", {"displayName": "Eve", "definition": {"nodes": nodes, "edges": edges}}, "publish"),
        ("agents", {"displayName": "Eve", "model": "model-1"}, "activate"),
    ]
    ids = []
    for collection, body, verb in made:
        ids.append(await connection.create(f"/v1/{collection}", own, body))
        await connection.call("POST", f"/v1/{collection}/{ids[-1]}:{verb}", own, b"{}")
    ipa = {"displayName": "Eve", "workflowId": ids[0], "workflowRevision": 1, "agentBindings": {"ask": ids[1]}}
    batch = {"requests": [{"ipa": ipa}] * 100}
    await _crowd(attacker, 30, "POST", "/v1/ipas:batchCreate", batch, has_key=True, rate=200)


async def storing(attacker: Attacker) -> None:
    """Stores the largest agents as fast as the limits allow."""
    await _crowd(attacker, 8, "POST", "/v1/agents", _LARGE, rate=40)


async def storing_batches(attacker: Attacker) -> None:
    """Stores users by the hundred."""
    user = {"displayName": "Eve"}

    async def client(number: int) -> None:
        connection, headers = await Http1.open(attacker), bearer(attacker.token(f"eve-{number}"))
        async for _ in attacker.paced(2000, rate=10):
            users = [{"user": {**user, "email": f"{secrets.token_hex(8)}@example.com"}} for _ in range(100)]
            body = json.dumps({"requests": users}).encode()
            await connection.call("POST", "/v1/users:batchCreate", headers, body)

    await asyncio.gather(*(client(number) for number in range(4)), return_exceptions=True)


async def idempotency_keys(attacker: Attacker) -> None:
    """Uses up idempotency keys by the thousand."""
    await _crowd(attacker, 16, "POST", "/v1/users", {"displayName": "Eve"}, has_key=True, fresh=True, rate=300)


async def kept_answers(attacker: Attacker) -> None:
    """Changes one large agent with a new idempotency key each time, whose answer is kept for a day."""
    connection, own = await Http1.open(attacker), bearer(attacker.token())
    path = f"/v1/agents/{await connection.create('/v1/agents', own, _LARGE)}?updateMask=displayName"
    await _crowd(attacker, 8, "PATCH", path, {"displayName": "Large"}, has_key=True, rate=100)


async def made_and_deleted(attacker: Attacker) -> None:
    """Creates large agents and deletes each at once, so that none counts as live."""
    connection, own = await Http1.open(attacker), bearer(attacker.token())
    async for _ in attacker.paced(400, rate=20):
        agent = await connection.create("/v1/agents", own, _LARGE)
        await connection.call("DELETE", f"/v1/agents/{agent}", own)


async def one_key(attacker: Attacker) -> None:
    """Sends one idempotency key many times at once, so that all wait for the first."""
    body, key = json.dumps({"displayName": "Eve", "model": "model-1"}).encode(), secrets.token_hex(16)

    async def client(_: int) -> None:
        connection = await Http1.open(attacker)
        async for _number in attacker.paced(200, rate=10):
            await connection.call("POST", "/v1/agents", {**bearer(attacker.token()), _KEY: key}, body)

    await asyncio.gather(*map(client, range(40)), return_exceptions=True)


async def one_row(attacker: Attacker) -> None:
    """Changes one row from many connections at once, so that they wait for its lock."""
    connection, own = await Http1.open(attacker), bearer(attacker.token())
    workflow = await connection.create("/v1/workflows", own, {"displayName": "Eve"})
    path = f"/v1/workflows/{workflow}?updateMask=displayName"
    await _crowd(attacker, 40, "PATCH", path, {"displayName": "Eve again"}, rate=400)


ATTACKS: Final = (
    Attack("keyed batches", keyed_batches, seconds=10),
    Attack("storing large agents", storing),
    Attack("storing users by the hundred", storing_batches),
    Attack("idempotency keys by the thousand", idempotency_keys),
    Attack("large answers kept by key", kept_answers),
    Attack("large rows made and deleted", made_and_deleted),
    Attack("one idempotency key at once", one_key),
    Attack("one row at once", one_row),
)
