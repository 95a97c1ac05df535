"""Requests over HTTP/1.1, whole or in parts."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final, Self

from bench.attack.attacker import Attacker, Connection

_ANSWER_SECONDS: Final = 20


def head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Returns the first lines of a request, with the empty one at their end."""
    lines = [f"{method} {path} HTTP/1.1", "host: x", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def bearer(token: str) -> dict[str, str]:
    """Returns the headers of a JSON request with a token."""
    return {"authorization": f"Bearer {token}", "content-type": "application/json"}


class Http1:
    """One connection, one request after the other."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, attacker: Attacker) -> Self:
        return cls(await attacker.connect())

    async def begin(self, method: str, path: str, headers: Mapping[str, str], *, length: int, part: bytes) -> bool:
        """Begins a request whose body of ``length`` bytes never ends; tells whether the edge still takes it."""
        self.connection.cost.calls += 1
        return await self.connection.send(head(method, path, {**headers, "content-length": str(length)}) + part)

    async def create(self, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
        """Creates something and returns its id.

        Raises:
            EOFError: it was refused.
        """
        answer = json.loads(await self.call("POST", path, headers, json.dumps(body).encode()) or b"{}")
        if "id" not in answer:
            raise EOFError
        return str(answer["id"])

    async def call(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
        """Makes a whole request and returns the body of the answer; counts it by its status."""
        cost, reader = self.connection.cost, self.connection.reader
        cost.calls += 1
        length = {"content-length": str(len(body))} if body else {}
        await self.connection.send(head(method, path, {**headers, **length}) + body)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().splitlines()
                size = next((int(line.split(":")[1]) for line in lines if line.startswith("content-length:")), 0)
                answer = await reader.readexactly(size)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            cost.answers["closed"] += 1
            raise EOFError from None
        except TimeoutError:
            cost.answers["none"] += 1
            raise
        cost.answers[lines[0].split()[1]] += 1
        return answer
