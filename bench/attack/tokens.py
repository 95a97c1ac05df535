"""Credentials in number."""

import itertools
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Final

import jwt

from bench.attack.attacker import Attack, Attacker
from bench.attack.http2 import Pool, bearer, get
from bench.attack.services import COLLECTIONS, NEVER

_MOST: Final = 100_000


async def invalid_tokens(attacker: Attacker) -> None:
    """Shows a hundred thousand tokens, each with another broken signature, key id or subject."""
    header, claims, signature = attacker.token().split(".")
    pool = Pool(attacker)
    kinds: Iterator[Callable[[], str]] = itertools.cycle(
        (
            lambda: f"{header}.{claims}.{secrets.token_urlsafe(256)}",
            lambda: f"{header}.{_encode({'sub': secrets.token_hex(8)})}.{signature}",
            lambda: f"{_encode({'alg': 'RS256', 'kid': secrets.token_hex(8)})}.{claims}.{signature}",
            lambda: f"{_encode({'alg': 'none'})}.{claims}.",
        )
    )
    async for number in attacker.paced(_MOST, rate=2500):
        path = f"/v1/{COLLECTIONS[number % len(COLLECTIONS)]}/{NEVER}"
        await (await pool.get(streams=300)).begin(get(path, bearer(next(kinds)())))


def _encode(value: dict[str, Any]) -> str:
    return jwt.utils.base64url_encode(json.dumps(value).encode()).decode()


async def valid_tokens(attacker: Attacker) -> None:
    """Shows as many distinct valid tokens as can be signed in the time, each of another subject and tenant."""
    pool = Pool(attacker)
    async for number in attacker.paced(_MOST, rate=2500):
        token = attacker.new_token(f"eve-{number}", f"eve-{number}")
        path = f"/v1/{COLLECTIONS[number % len(COLLECTIONS)]}/{NEVER}"
        await (await pool.get(streams=300)).begin(get(path, bearer(token)))


async def api_keys(attacker: Attacker) -> None:
    """Shows API keys that do not exist."""
    pool = Pool(attacker)
    async for _ in attacker.paced(8000, rate=1000):
        await (await pool.get(streams=300)).begin(get("/v1/users", ("x-api-key", secrets.token_urlsafe(32))))


ATTACKS: Final = (
    Attack("distinct invalid tokens", invalid_tokens, seconds=20),
    Attack("distinct valid tokens", valid_tokens, seconds=20),
    Attack("API keys that do not exist", api_keys),
)
