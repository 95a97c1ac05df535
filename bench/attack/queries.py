"""Texts that are dear to read: filters, orders, schemas; and names that fill metrics and logs."""

import json
import secrets
from itertools import cycle
from typing import Any, Final
from urllib.parse import quote

from bench.attack.attacker import Attack, Attacker
from bench.attack.http1 import Http1
from bench.attack.http1 import bearer as bearer_h1
from bench.attack.http2 import Pool, bearer, get, grpc, message
from bench.attack.services import COLLECTIONS, rpc

FILTERS: Final = (
    "(" * 3000 + ")" * 3000,
    " AND ".join(['display_name = "a"'] * 250),
    " OR ".join(f'(display_name = "{number}")' for number in range(250)),
    "NOT " * 1000 + 'display_name = "a"',
    "-" * 4000 + "a",
    'display_name = "' + "%_" * 1500 + '"',
    'display_name : "' + "*" * 3000 + '"',
    'display_name = "' + "\\" * 3000 + '"',
    'display_name = "a' + '"' * 3001,
    "labels." + "a." * 1500 + ' = "a"',
    "create_time > " + "9" * 3000,
    "a" * 6000,
)
ORDERS: Final = (
    ",".join(["display_name"] * 400),
    ",".join(["display_name desc, create_time"] * 150),
    "display_name " + " " * 5000 + "desc",
    "," * 5000,
    "a." * 2000,
)


async def filters(attacker: Attacker) -> None:
    """Lists with filters and orders as long and deep as fit."""
    pool = Pool(attacker)
    # As they are, and cut to what the contract admits.
    filters = [f"filter={quote(one[:size])}" for one in FILTERS for size in (2048, 3000)]
    orders = [f"orderBy={quote(one[:size])}" for one in ORDERS for size in (256, 3000)]
    texts = cycle(filters + orders)
    async for number in attacker.paced(4000, rate=150):
        path = f"/v1/{COLLECTIONS[number % len(COLLECTIONS)]}?{next(texts)}"
        await (await pool.get(streams=50)).begin(get(path, bearer(attacker.token(role="viewer"))))


def _nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"allOf": [inner]}
    return inner


SCHEMAS: Final = (
    _nested(60, {"type": "object"}),
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}},
    {"type": "object", "patternProperties": {"(" * 500 + ")" * 500: {}}},
    {"$ref": "#", "type": "object"},
    {"type": "object", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "object", "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}},
    {"type": "object", "enum": list(range(1500))},
    {"type": "object", "required": [f"k{number}" for number in range(1500)]},
    {"type": "object", "multipleOf": 1e-300, "minLength": 1e300},
    {"type": "object", "oneOf": [{"const": number} for number in range(700)]},
)


async def schemas(attacker: Attacker) -> None:
    """Creates agents whose tools have JSON schemas that are dear to check."""
    texts = cycle(
        [
            json.dumps(
                {
                    "displayName": "Bomb",
                    "model": "model-1",
                    "tools": [{"name": f"tool_{number}", "inputSchema": schema} for number in range(how_many)],
                }
            ).encode()
            for schema in SCHEMAS
            for how_many in (1, 100)
        ]
    )
    connection = await Http1.open(attacker)
    async for _ in attacker.paced(2000, rate=50):
        try:
            await connection.call("POST", "/v1/agents", bearer_h1(attacker.token(role="editor")), next(texts))
        except EOFError:
            connection = await Http1.open(attacker)


async def json_trees(attacker: Attacker) -> None:
    """Sends JSON of ten mebibytes: too many values, deep nesting, long numbers, and as much as passes the edge."""
    texts = cycle(
        [
            b'{"displayName":"a","model":"m","parameters":{"a":[' + b"0," * 5_000_000 + b"0" + b"]}}",
            b'{"displayName":"a","model":"m","parameters":{"a":[' + b"null," * 99_000 + b"null" + b"]}}",
            b'{"displayName":"a","model":"m","parameters":{"a":' + b"[" * 5_000_000,
            b'{"displayName":"a","model":"m","parameters":{"a":' + b"9" * 9_000_000 + b"}}",
            b'{"displayName":"' + b"\\u0041" * 1_600_000 + b'"}',
            b"[" + b"{}," * 3_000_000,
            b'{"parameters":{' + b",".join(b'"%d":1' % number for number in range(90_000)) + b"}}",
            b'{"parameters":{' + b",".join(b'"%d":1' % number for number in range(9_990)) + b"}}",
            b'{"labels":{' + b",".join(b'"%d":"%s"' % (number, b"x" * 250_000) for number in range(40)) + b"}}",
        ]
    )
    connection = await Http1.open(attacker)
    async for _ in attacker.paced(60, rate=6):
        try:
            await connection.call("POST", "/v1/agents", bearer_h1(attacker.token(role="editor")), next(texts))
        except EOFError:
            connection = await Http1.open(attacker)


async def names(attacker: Attacker) -> None:
    """Makes up paths, methods, RPCs, user agents and request ids, so that metrics and logs get a new name each time."""
    pool = Pool(attacker)
    async for number in attacker.paced(8000, rate=500):
        made_up = secrets.token_hex(8)
        token = bearer(attacker.token(tenant=f"eve-{number % 200}"))
        odd = (("user-agent", made_up), ("x-request-id", made_up), ("x-forwarded-for", f"10.0.{number % 250}.1"))
        match number % 5:
            case 0:
                headers, body = get(f"/v1/{made_up}", token, *odd), None
            case 1:
                headers, body = get("/v1/users", token, *odd, method=made_up.upper()), None
            case 2:
                headers, body = grpc(f"/{made_up}.v1.Service/{made_up}", token, *odd), message(b"")
            case 3:
                headers, body = grpc(f"{rpc(COLLECTIONS[0], 'List')}{made_up}", token, *odd), message(b"")
            case _:
                headers, body = get(f"/v1/users/{made_up}", token, *odd, (":authority", f"{made_up}.example")), None
        await (await pool.get(streams=100)).begin(headers, body)


ATTACKS: Final = (
    Attack("filter and order bombs", filters),
    Attack("JSON-schema bombs", schemas),
    Attack("JSON of ten mebibytes", json_trees, seconds=10),
    Attack("metrics and log cardinality", names),
)
