"""Measures how long the answer to an API key takes, by its fault: `python -m bench.wrong_key --rounds 200`.

It runs the exchange of the users service over a real Postgres, without gRPC, whose noise would hide differences.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Final

import asyncpg
import uuid_utils
from api_common.authn import InternalTokenSigner
from api_common.db import Database
from api_common.listing import PageTokens
from api_common.settings import DatabaseSettings
from api_common.testing import AUDIENCE, PEPPER, Identity, TestDatabase, create_database, postgres_server
from cryptography.fernet import Fernet
from pydantic import SecretStr
from users_service.api_keys import ApiKeys
from users_service.failed_attempts import FailedAttempts
from users_service.key_exchange import CACHE_SECONDS, KeyExchange
from users_service.repository import ApiKeyRepository
from users_service.service import SERVICE

BASE: Final = "of an id that never was"
RIGHT: Final = "right, not remembered"
CALLS: Final = 20
"""Calls of each kind in a round. The quickest is the figure of the round, because other load only adds time."""

_TENANT: Final = "bench"
_KEYS: Final = ApiKeys([PEPPER.encode()])
_RESAMPLES: Final = 2000
_ACCOUNT: Final = (
    "INSERT INTO service_accounts (tenant_id, id, display_name, state, created_by) VALUES ($1,$2,'A',$3,'a')"
)
_KEY: Final = (
    "INSERT INTO api_keys (tenant_id, id, service_account_id, display_name, prefix, key_hash, revoke_time, expire_time,"
    " create_time, created_by) VALUES ($1, $2, $3, 'K', $4, $5, CASE WHEN $6 = 'revoked' THEN now() END,"
    " CASE WHEN $6 = 'expired' THEN now() END, now(), 'a')"
)


def measure(rounds: int) -> Mapping[str, Sequence[float]]:
    """Returns microseconds for each kind of key, one figure per round; the order within a round alternates."""
    with tempfile.TemporaryDirectory(prefix="bench") as folder, postgres_server() as admin_url:
        database = create_database(admin_url, SERVICE.name, SERVICE.migrations)
        signer = InternalTokenSigner(Identity(Path(folder)).signing_key_path.read_bytes(), audience=AUDIENCE)
        return asyncio.run(_measure(database, signer, rounds))


async def _measure(database: TestDatabase, signer: InternalTokenSigner, rounds: int) -> Mapping[str, Sequence[float]]:
    times: dict[str, list[float]] = {}
    chance = random.Random(1)
    keys = await _store(database.admin_url)
    async with _exchange(database, signer) as exchange:
        for number in range(rounds + 1):
            for kind in chance.sample(list(keys), len(keys)):
                calls = []
                for _ in range(CALLS):
                    key = keys[kind]()
                    started = time.perf_counter()
                    token = await exchange.exchange(key, address="192.0.2.1", timeout_seconds=10)
                    calls.append((time.perf_counter() - started) * 1e6)
                    assert (token is not None) == (kind == RIGHT), kind
                # The first round prepares statements.
                if number:
                    times.setdefault(kind, []).append(min(calls))
    return times


@asynccontextmanager
async def _exchange(database: TestDatabase, signer: InternalTokenSigner) -> AsyncIterator[KeyExchange]:
    # Caches are emptied between two calls.
    clock = count(0, CACHE_SECONDS)
    settings = DatabaseSettings(url=SecretStr(database.url), pool_size=1)
    opened = await Database.connect(settings, application_name="wrong_key")
    attempts = FailedAttempts(now=lambda: float(next(clock)))
    repository = ApiKeyRepository(PageTokens([Fernet.generate_key().decode()]))
    yield KeyExchange(_KEYS, repository, opened, signer, attempts=attempts, now=lambda: float(next(clock)))
    await opened.close()


async def _store(admin_url: str) -> Mapping[str, Callable[[], str]]:
    """Stores the keys of the kinds that exist, and returns a key of every kind."""
    connection = await asyncpg.connect(admin_url)
    made = {}
    for kind in ("right", "revoked", "expired", "disabled"):
        made[kind] = key = _KEYS.make(_TENANT)
        account = str(uuid_utils.uuid7())
        await connection.execute(_ACCOUNT, _TENANT, account, "DISABLED" if kind == "disabled" else "ACTIVE")
        await connection.execute(_KEY, _TENANT, key.id, account, key.secret[:19], key.key_hash, kind)
    await connection.close()
    right = made["right"].secret
    other = f"{right[:39]}{'0' * 64}{right[103:-9]}"
    elsewhere = f"{right[:103]}{b'other'.hex()}"
    return {
        BASE: lambda: _KEYS.make(_TENANT).secret,
        "with another secret": lambda: f"{other}_{zlib.crc32(other.encode()):08x}",
        "under another tenant": lambda: f"{elsewhere}_{zlib.crc32(elsewhere.encode()):08x}",
        "revoked": lambda: made["revoked"].secret,
        "expired": lambda: made["expired"].secret,
        "of a disabled account": lambda: made["disabled"].secret,
        "garbled": lambda: f"{right[:-1]}x",
        "empty": lambda: "",
        RIGHT: lambda: right,
    }


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(differences, k=len(differences))) for _ in range(_RESAMPLES))
    return medians[_RESAMPLES // 40], medians[-_RESAMPLES // 40]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.wrong_key")
    parser.add_argument("--rounds", type=int, default=200, help="how often each kind is measured (default: 200)")
    times = measure(parser.parse_args().rounds)
    print(f"| key | µs | more than one {BASE}, µs | 95 % |\n|---|---|---|---|")
    for kind, own in times.items():
        differences = [mine - base for mine, base in zip(own, times[BASE], strict=True)]
        low, high = _interval(differences)
        middle = statistics.median(differences)
        print(f"| {kind} | {statistics.median(own):.0f} | {middle:+.0f} | {low:+.0f} … {high:+.0f} |")
