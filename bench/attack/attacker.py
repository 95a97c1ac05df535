"""An attacker: what it may use, what it has sent, what came back. `run.py` starts it as a process of its own.

It has a low priority (nice 19), because on a machine of two cores its own work would slow the polite tenant down.
It connects from an address of its own, so limits per address tell the two apart.
"""

import asyncio
import contextlib
import dataclasses
import ipaddress
import json
import os
import resource
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tools.secrets import identity

ADDRESS: Final = "127.0.0.2"
"""Where attackers come from. Linux answers on all of 127.0.0.0/8."""

_NICE: Final = 19
_CONNECT_SECONDS: Final = 3
_SEND_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Target:
    """A mesh on this machine."""

    host: str
    port: int
    """Of the edge, without TLS."""
    issuer: str
    """The folder of the development issuer, which signs the attacker's valid tokens."""

    def __post_init__(self) -> None:
        if not ipaddress.ip_address(self.host).is_loopback:
            raise ValueError(f"Attacks go to this machine only, not to {self.host}.")


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack; its docstring says what it tries."""

    name: str
    play: Callable[["Attacker"], Awaitable[None]]
    seconds: float = 5
    """It ends after this time at the latest."""


@dataclass
class Cost:
    """What an attack cost the attacker, and how it was answered."""

    sent: int = 0
    """Bytes."""
    calls: int = 0
    """Requests, or connections and frames where no request is finished."""
    answers: Counter[str] = dataclasses.field(default_factory=Counter)


class Attacker:
    """Sends what an attack tells it, until its time is over."""

    def __init__(self, target: Target, *, seconds: float) -> None:
        self.target = target
        self.cost = Cost()
        self._opened: list[Connection] = []
        self._seconds = seconds
        self._ends = time.monotonic() + seconds

    async def paced(self, most: int, *, rate: float) -> AsyncIterator[int]:
        """Yields at most ``most`` numbers, ``rate`` a second, until the time is over: the loop of every attack."""
        begun = time.monotonic()
        for number in range(most):
            now = time.monotonic()
            if now >= self._ends:
                return
            # A loop that sends without waiting must still let its connections read.
            await asyncio.sleep(max(0.0, begun + number / rate - now))
            yield number

    async def hold(self) -> None:
        """Waits until the time is over, so that what is held stays held."""
        await asyncio.sleep(max(0.0, self._ends - time.monotonic()))

    async def pause(self, seconds: float) -> None:
        """Waits so long, and ends the attack when its time is over.

        Raises:
            TimeoutError: the time is over.
        """
        if time.monotonic() >= self._ends:
            raise TimeoutError
        await asyncio.sleep(seconds)

    def share(self, most: int) -> int:
        """Returns the part of ``most`` that fits the time, for attacks that are one crowd: all in five seconds."""
        return max(1, int(most * min(1.0, self._seconds / 5)))

    @cache  # noqa: B019 - one attacker lives as long as its process
    def token(self, subject: str = "eve", tenant: str = "eve", role: str = "admin") -> str:
        """Returns a valid token, the same for the same caller."""
        return self.new_token(subject, tenant, role)

    def new_token(self, subject: str, tenant: str, role: str = "admin") -> str:
        """Signs another valid token; `identity.mint` would read the key again each time, which takes far longer."""
        claims, headers, key = _signer(self.target.issuer)
        own = {"sub": subject, "tenant_id": tenant, "roles": [role], "jti": secrets.token_hex(8)}
        return jwt.encode({**claims, **own}, key, algorithm="RS256", headers=headers)

    async def connect(self) -> "Connection":
        """Opens a connection and counts it as refused if nobody accepts it."""
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                self.target.host, self.target.port, local_addr=(ADDRESS, 0), limit=2**24
            )
        self._opened.append(Connection(self.cost, reader, writer))
        return self._opened[-1]

    async def close(self) -> None:
        """Closes all connections, and waits for what reads from them."""
        for connection in self._opened:
            connection.close()
        await asyncio.gather(*(one.reading for one in self._opened if one.reading), return_exceptions=True)


@cache
def _signer(issuer: str) -> tuple[dict[str, Any], dict[str, Any], RSAPrivateKey]:
    """Returns the claims, headers and key of good tokens."""
    folder = Path(issuer)
    good = identity.mint(folder, sub="eve", tenant="eve", roles=[])
    key = load_pem_private_key((folder / "private.pem").read_bytes(), password=None)
    assert isinstance(key, RSAPrivateKey)
    key_id = {"kid": jwt.get_unverified_header(good)["kid"]}
    return jwt.decode(good, options={"verify_signature": False}), key_id, key


class Connection:
    """A connection that counts what it sends."""

    def __init__(self, cost: Cost, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.cost = cost
        self.reader = reader
        self.reading: asyncio.Task[None] | None = None
        """What reads in the background, if anything does."""
        self.closed_by_other = True
        self._writer = writer

    async def send(self, data: bytes) -> bool:
        """Sends, and tells whether the other end still takes it."""
        if self._writer.is_closing():
            return False
        self._writer.write(data)
        self.cost.sent += len(data)
        try:
            async with asyncio.timeout(_SEND_SECONDS):
                await self._writer.drain()
        except (OSError, TimeoutError):
            return False
        return True

    def close(self) -> None:
        self.closed_by_other = self.reader.at_eof() or self._writer.is_closing()
        self._writer.transport.abort()


async def play(attack: Attack, target: Target, seconds: float) -> Cost:
    """Plays ``attack`` for so many seconds at most."""
    attacker = Attacker(target, seconds=seconds)
    try:
        async with asyncio.timeout(seconds + _SEND_SECONDS):
            await attack.play(attacker)
    except (OSError, TimeoutError, EOFError) as error:
        attacker.cost.answers[f"ended by {type(error).__name__}"] += 1
    finally:
        await attacker.close()
    return attacker.cost


def main() -> None:
    """Plays one attack: `python -m bench.attack.attacker NAME SECONDS TARGET`. Prints its cost as JSON.

    It says when it is ready and waits for a line, so that its start is no part of the attack.
    """
    from bench.attack.catalog import ATTACKS

    name, seconds, target = sys.argv[1], float(sys.argv[2]), Target(**json.loads(sys.argv[3]))
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    _signer(target.issuer)
    print("ready", flush=True)
    sys.stdin.readline()
    niceness = os.nice(_NICE)
    with contextlib.suppress(OSError):
        # Where Linux schedules sessions as groups, nice counts within one only; `run.py` gives each attacker its own.
        Path("/proc/self/autogroup").write_text(str(niceness))
    cost = asyncio.run(play(ATTACKS[name], target, seconds))
    print(json.dumps(vars(cost)))


if __name__ == "__main__":
    main()
