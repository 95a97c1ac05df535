"""Who waits as told succeeds, whichever limiter of the edge has refused; the headers tell it before, too."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Final

import httpx
import pytest

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.plugin import Edge, Issuer, Layout, filter_named, running

CALLS: Final = 3
SECONDS: Final = 2
"""Until the next token of a bucket of calls."""


@pytest.fixture(scope="module")
async def slow(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """The edge with small buckets that fill slowly; the rate of bytes is the real one."""

    def change(manager: Any) -> None:
        slowly = {"max_tokens": CALLS, "tokens_per_fill": 1, "fill_interval": f"{SECONDS}s"}
        for descriptor in filter_named(manager, "identity")["descriptors"]:
            descriptor["token_bucket"] = slowly
        for descriptor in filter_named(manager, "address")["descriptors"]:
            if descriptor["entries"][0]["key"] == "credential":
                descriptor["token_bucket"] = slowly
        for name in ("announced", "arrived"):
            for descriptor in filter_named(manager, name)["descriptors"]:
                descriptor["token_bucket"]["max_tokens"] = 11 * MIB

    async with running(layout("slow", 3, change)) as result:
        yield result


async def test_is_true_of_every_limiter(slow: Edge, issuer: Issuer, backend: Backend) -> None:
    async def in_chunks() -> AsyncIterator[bytes]:
        # It counts as the largest body.
        yield b"{}"

    async def wait(limiter: str, method: str, path: str, **headers: str) -> None:
        def ask() -> Awaitable[httpx.Response]:
            return client.request(method, path, content=in_chunks() if method == "POST" else None)

        async with slow.client(headers=headers) as client:
            answers = [await ask() for _ in range(CALLS + 1)]
            refused = next(answer for answer in answers if answer.status_code == 429)
            told = int(refused.headers["retry-after"])
            assert 1 <= told <= 3, limiter
            assert refused.json()["details"][2]["retryDelay"] == f"{told}s"
            # It is the promise that waiting is enough.
            await asyncio.sleep(told)
            assert (await ask()).status_code != 429, limiter

    def caller(sub: str) -> str:
        return f"Bearer {issuer.token(sub=sub, tenant_id=f'of-{sub}')}"

    await asyncio.gather(
        wait("address", "GET", "/v1/me"),
        wait("identity", "GET", "/v1/me", authorization=caller("ada")),
        wait("bytes", "POST", "/v1/users", authorization=caller("bob")),
    )


async def test_is_told_before_in_both_spellings(slow: Edge, issuer: Issuer, backend: Backend) -> None:
    credentials = {"authorization": f"Bearer {issuer.token(sub='eve', tenant_id='of-eve')}"}

    def told(answer: httpx.Response) -> tuple[str, str, str]:
        limit, left, reset = (answer.headers[f"x-ratelimit-{name}"] for name in ("limit", "remaining", "reset"))
        assert answer.headers.get_list("ratelimit-policy") == [f'"default";q={limit}']
        assert answer.headers.get_list("ratelimit") == [f'"default";r={left};t={reset}']
        return limit, left, reset

    async with slow.client(headers=credentials) as client:
        answers = [await client.get("/v1/me") for _ in range(CALLS + 1)]
        page = await client.get("/nothing")
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert [told(answer)[:2] for answer in answers] == [("3", "2"), ("3", "1"), ("3", "0"), ("3", "0")]
    assert 1 <= int(told(answers[-1])[2]) <= SECONDS
    # Of the address, because nothing else has counted it.
    assert re.fullmatch(r"\d+", told(page)[0])
