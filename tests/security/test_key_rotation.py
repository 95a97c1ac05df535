"""Keys of the issuer change under load, and nobody with a good token notices."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest
import yaml
from ameide.user.v1 import user_pb2 as pb
from api_common.authn import FileKeySet, OidcVerifier, bearer_token
from api_common.errors import UnauthenticatedError, render
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.e2e.edge.backend import Answer, Backend
from tests.e2e.edge.plugin import Edge, Layout, publishing, running
from tests.helm.release import Release, startup_probe
from tools.secrets import identity
from tools.secrets.issuer import IssuerServer
from tools.topology import AUDIENCE, ISSUER

CACHE_SECONDS: Final = 1
"""What envoy.yaml calls cache_duration; 30 there."""
BOUND_SECONDS: Final = CACHE_SECONDS + 14
# Both listeners have the filter, and each fetches by itself.
FETCHERS: Final = 2


@dataclass
class Publisher:
    """An issuer that can go away, and an edge that asks it every second."""

    edge: Edge
    folder: Path
    port: int
    _up: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        self._up.enter_context(publishing(IssuerServer(self.folder, self.port)))

    def stop(self) -> None:
        self._up.close()

    def token(self, subject: str = "ada") -> str:
        return identity.mint(self.folder, sub=subject, tenant="acme", roles=["admin"])

    async def ask(self, *tokens: str) -> set[int]:
        """Returns the statuses that callers with ``tokens`` get; so many at once that both workers answer."""
        async with self.edge.client() as client:
            asked = (client.get("/v1/me", headers={"authorization": f"Bearer {token}"}) for token in tokens)
            return {response.status_code for response in await asyncio.gather(*asked)}

    async def fetches(self, outcome: str) -> int:
        async with httpx.AsyncClient(base_url=self.edge.admin, verify=False) as admin:
            stats = (await admin.get("/stats", params={"filter": f"jwks_fetch_{outcome}$"})).text
        return sum(map(int, re.findall(r": (\d+)", stats)))

    async def until_fetched(self, outcome: str) -> None:
        """Waits until everybody has fetched after now; a fetch may have been on its way, hence two each."""
        enough = await self.fetches(outcome) + 2 * FETCHERS

        async def fetched() -> bool:
            return await self.fetches(outcome) >= enough

        await until(fetched)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + BOUND_SECONDS
    while not await holds():
        assert time.monotonic() < deadline, "not within the bound"
        await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
async def publisher(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Publisher]:
    folder = tmp_path_factory.mktemp("rotated")
    identity.ensure(folder)
    with IssuerServer(folder, 0) as server:
        port = server.server_port

    laid = layout("rotation", 2)
    authentication = laid.folder / "authentication.yaml"
    document = yaml.safe_load(authentication.read_text())
    remote = document["resources"][0]["typed_config"]["providers"]["ameide"]["remote_jwks"]
    remote["cache_duration"] = f"{CACHE_SECONDS}s"
    remote["async_fetch"]["failed_refetch_duration"] = "0.2s"
    remote["retry_policy"]["num_retries"] = 0
    authentication.write_text(yaml.safe_dump(document))
    clusters = laid.folder / "clusters.yaml"
    document = yaml.safe_load(clusters.read_text())
    (cluster,) = (one for one in document["resources"] if one["name"] == "issuer")
    endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"]["port_value"] = port
    clusters.write_text(yaml.safe_dump(document))
    publisher = Publisher(laid, folder, port)
    publisher.start()
    async with running(laid):
        yield publisher
    publisher.stop()


@dataclass
class Load:
    """Callers that use whichever token is current, all the time."""

    token: str
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many calls got which status, by the key of their token."""


def key_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@asynccontextmanager
async def load(publisher: Publisher) -> AsyncIterator[Load]:
    result, over = Load(publisher.token()), False

    async def call() -> None:
        async with publisher.edge.client() as client:
            while not over:
                token = result.token
                response = await client.get("/v1/me", headers={"authorization": f"Bearer {token}"})
                result.statuses[key_of(token), response.status_code] += 1

    callers = [asyncio.create_task(call()) for _ in range(4)]
    try:
        yield result
    finally:
        over = True
        await asyncio.gather(*callers)


def verifying(keys: FileKeySet) -> Answer:
    """What a service says, by its own verifier."""
    verifier = OidcVerifier(issuer=ISSUER, audience=AUDIENCE, key_set=keys)

    async def answer(request: Any, context: Any) -> pb.User:
        try:
            await verifier.verify(bearer_token((dict(tuple(context.invocation_metadata()))["authorization"],)))
        except UnauthenticatedError as error:
            await context.abort(*render(error, request_id="the-id"))
        return pb.User()

    return answer


class TestRotation:
    async def test_refuses_no_good_token_and_in_the_end_every_old_one(
        self, publisher: Publisher, backend: Backend
    ) -> None:
        keys = FileKeySet(publisher.folder / "jwks.json")
        backend.script["GetMe"] = verifying(keys)
        old, unseen = publisher.token(), publisher.token("bob")
        async with load(publisher) as callers:
            identity.rotate(publisher.folder, "publish")
            await publisher.until_fetched("success")
            identity.rotate(publisher.folder, "activate")
            callers.token = publisher.token()
            assert await publisher.ask(*[old] * 20) == {200}
            identity.rotate(publisher.folder, "retire")
            await publisher.until_fetched("success")
            await keys.refresh()
            # The edge knows it still: here the service refuses it.
            assert await publisher.ask(*[old] * 20) == {401}
        assert key_of(old) != key_of(callers.token)
        assert callers.statuses.keys() == {(key_of(old), 200), (key_of(callers.token), 200)}
        backend.calls.clear()
        assert await publisher.ask(*[unseen] * 20) == {401}
        assert backend.calls == []


class TestIssuer:
    async def test_that_has_told_its_keys_lets_the_chart_s_pod_be_ready(self, publisher: Publisher) -> None:
        assert await startup_probe(publisher.edge.admin, Release({})) == 0

    async def test_that_is_down_locks_nobody_out(self, publisher: Publisher) -> None:
        token = publisher.token()
        publisher.stop()
        try:
            await publisher.until_fetched("failed")
            assert await publisher.ask(*[token] * 20) == {200}
        finally:
            publisher.start()
        await publisher.until_fetched("success")
        assert await publisher.ask(*[token] * 20) == {200}

    async def test_is_not_flooded_through_us(self, publisher: Publisher) -> None:
        """However many callers name keys that nobody knows."""
        claims = jwt.decode(publisher.token(), options={"verify_signature": False})
        key = load_pem_private_key((publisher.folder / "private.pem").read_bytes(), password=None)
        assert isinstance(key, RSAPrivateKey)
        unknown = [jwt.encode(claims, key, "RS256", headers={"kid": f"k{number}"}) for number in range(100)]
        started, before = time.monotonic(), await publisher.fetches("success")
        assert await publisher.ask(*unknown) == {401}
        fetched = await publisher.fetches("success") - before
        assert fetched <= FETCHERS * ((time.monotonic() - started) / CACHE_SECONDS + 1)
