"""What one caller may ask for, and that other callers do not pay for it."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
from ameide.user.v1 import user_pb2 as pb

from tests.e2e.edge.backend import MIB, Backend
from tests.e2e.edge.callers import CALLERS, REPLIES, USERS, Ask, ask_grpc, http_status_of, rest_refusal
from tests.e2e.edge.plugin import Edge, Issuer, Layout, filter_named, running

PRINCIPAL: Final = 10
TENANT: Final = 15
ANONYMOUS: Final = 12
LITTLE: Final = 16 * 1024


@pytest.fixture(scope="module")
async def strict(layout: Layout, published: None) -> AsyncIterator[Edge]:
    """The edge with small buckets that do not fill again while a test runs; each test has its own tenant."""

    def change(manager: Any) -> None:
        for name in ("address", "identity"):
            for descriptor in filter_named(manager, name)["descriptors"]:
                match [entry["key"] for entry in descriptor["entries"]]:
                    case ["class", "tenant"]:
                        shrink(descriptor, TENANT)
                    case ["class", "tenant", "principal"]:
                        shrink(descriptor, PRINCIPAL)
                    case ["credential", "remote_address"]:
                        shrink(descriptor, ANONYMOUS)
        for name in ("announced", "arrived"):
            for descriptor, size in zip(filter_named(manager, name)["descriptors"], (15, 10), strict=True):
                shrink(descriptor, size * MIB + LITTLE)

    def shrink(descriptor: Any, size: int) -> None:
        descriptor["token_bucket"] = {"max_tokens": size, "tokens_per_fill": size, "fill_interval": "60000s"}

    async with running(layout("strict", 3, change)) as result:
        yield result


@pytest.fixture
def credentials(issuer: Issuer, request: pytest.FixtureRequest) -> Any:
    """Makes the headers of a caller in a tenant of this test: `credentials("ada")`, in another one `"ada", "b"`."""
    number = abs(hash(request.node.nodeid))

    def make(sub: str, tenant: str = "a") -> dict[str, str]:
        return {"authorization": f"Bearer {issuer.token(sub=sub, tenant_id=f'{tenant}{number}')}"}

    return make


async def statuses(edge: Edge, count: int, headers: dict[str, str], path: str = "/v1/me") -> Counter[int]:
    """Asks so often at once that both workers have connections."""

    async def ask(number: int) -> int:
        method = "DELETE" if path.startswith("/v1/users/") else "GET"
        spoofed = {
            "x-forwarded-for": f"203.0.113.{number}",
            "x-tenant-id": f"t{number}",
            "x-ameide-tenant": f"t{number}",
        }
        return (await client.request(method, path, headers=headers | spoofed)).status_code

    async with edge.client() as client:
        return Counter(await asyncio.gather(*map(ask, range(count))))


class TestPrincipal:
    async def test_may_ask_so_often_and_no_more(self, strict: Edge, backend: Backend, credentials: Any) -> None:
        assert await statuses(strict, PRINCIPAL + 5, credentials("ada")) == {200: PRINCIPAL, 429: 5}
        assert len(backend.calls) == PRINCIPAL
        assert await statuses(strict, 3, credentials("bob")) == {200: 3}

    async def test_has_one_bucket_for_all_languages(self, strict: Edge, backend: Backend, credentials: Any) -> None:
        ada = credentials("ada")
        assert await statuses(strict, PRINCIPAL, ada) == {200: PRINCIPAL}
        for language, ask in CALLERS.items():
            refusal = await ask(strict, Ask("/v1/me", f"{USERS}/GetMe", ada))
            refusal.is_row(REPLIES[429], http_status=http_status_of(REPLIES[429], language))
            # Here a token takes 6,000 seconds.
            assert 5000 < int(refusal.headers["retry-after"]) <= 60000
            assert refusal.headers["x-ratelimit-remaining"] == "0"
            assert int(refusal.headers["x-ratelimit-reset"]) > 0
            assert refusal.headers["x-ratelimit-limit"].startswith(str(PRINCIPAL))

    async def test_is_counted_in_each_class(self, strict: Edge, backend: Backend, credentials: Any) -> None:
        ada = credentials("ada")
        assert await statuses(strict, PRINCIPAL + 1, ada) == {200: PRINCIPAL, 429: 1}
        assert await statuses(strict, PRINCIPAL + 1, ada, "/v1/users/x") == {200: PRINCIPAL, 429: 1}

    async def test_finds_no_path_that_is_not_counted(self, strict: Edge, backend: Backend, credentials: Any) -> None:
        """A path that nobody serves reaches no service, so the limit of the address is enough for it."""
        ada = credentials("ada")
        for number in range(PRINCIPAL):
            async with strict.channel() as channel:
                method = channel.unary_unary(
                    f"{USERS}/GetMe?x={number}", request_serializer=bytes, response_deserializer=bytes
                )
                await method(b"", metadata=tuple(ada.items())).code()
        refusal = await ask_grpc(strict, Ask("", f"{USERS}/GetMe?x", ada))
        assert refusal.reason == "RATE_LIMITED"

    async def test_of_the_same_name_elsewhere_is_somebody_else(
        self, strict: Edge, backend: Backend, credentials: Any
    ) -> None:
        await statuses(strict, PRINCIPAL, credentials("ada"))
        assert await statuses(strict, 1, credentials("ada", "b")) == {200: 1}

    async def test_is_told_what_is_left(self, strict: Edge, backend: Backend, credentials: Any) -> None:
        async with strict.client(headers=credentials("ada")) as client:
            response = await client.get("/v1/me")
        assert response.headers.get_list("x-ratelimit-remaining") == [str(PRINCIPAL - 1)]


class TestTenant:
    async def test_that_is_exhausted_leaves_others_alone(
        self, strict: Edge, backend: Backend, credentials: Any
    ) -> None:
        first = await statuses(strict, PRINCIPAL, credentials("ada"))
        second = await statuses(strict, PRINCIPAL, credentials("bob"))
        assert (first[200], second[200]) == (PRINCIPAL, TENANT - PRINCIPAL)
        assert await statuses(strict, 1, credentials("cleo")) == {429: 1}
        assert await statuses(strict, 1, credentials("ada", "b")) == {200: 1}

    async def test_outnumbers_the_default_of_twenty(self, strict: Edge, backend: Backend, credentials: Any) -> None:
        """With Envoy's own max_dynamic_descriptors the 21st takes the place of the first, which comes back full."""
        await statuses(strict, PRINCIPAL, credentials("ada"))
        for number in range(30):
            await statuses(strict, 1, credentials("ada", f"other-{number}-"))
        assert await statuses(strict, 1, credentials("ada")) == {429: 1}


class TestBytes:
    """Here a principal may send 10 MiB, its tenant 15, and a little more. `test_held_bodies.py` has HTTP/1.1."""

    @pytest.mark.parametrize(
        ("content_type", "path", "announced"),
        [
            ("application/json", "/v1/users", True),
            ("application/json", "/v1/users", False),
            ("application/grpc", f"{USERS}/CreateUser", False),
            ("application/grpc-web+proto", f"{USERS}/CreateUser", True),
            ("application/grpc-web-text", f"{USERS}/CreateUser", True),
        ],
    )
    async def test_are_counted_in_every_language(
        self,
        strict: Edge,
        backend: Backend,
        credentials: Any,
        content_type: str,
        path: str,
        announced: bool,
    ) -> None:
        async def send(sub: str, size: int) -> str | None:
            async def arriving() -> AsyncIterator[bytes]:
                yield body

            # In JSON no text may be as long.
            body = b'{"labels":{%s}}' % b",".join(b'"%d":"%s"' % (number, b"x" * (size // 5)) for number in range(5))
            if "grpc" in content_type:
                # Base64 takes a third more, which counts.
                name = "x" * (size * 3 // 4 if content_type.endswith("text") else size)
                message = pb.CreateUserRequest(user=pb.User(display_name=name)).SerializeToString()
                body = b"\0" + len(message).to_bytes(4, "big") + message
            if content_type.endswith("text"):
                body = base64.b64encode(body)
            headers = credentials(sub) | {"content-type": content_type, "te": "trailers"}
            async with strict.client(headers=headers, http1=False, http2=True) as client:
                answer = await client.post(path, content=body if announced else arriving())
            # As long as 10 MiB take at the rate of this environment.
            assert answer.headers.get("retry-after") == ("3" if "error-type" in answer.headers else None)
            reason: str | None = answer.headers.get("error-type")
            return reason

        assert [await send("ada", 5 * MIB) for _ in range(2)] == [None, None]
        assert await send("ada", 2 * LITTLE) == "RATE_LIMITED"
        # Its tenant has left what one such call takes; calls without a body go on.
        assert [await send("bob", 5 * MIB), await send("cleo", 2 * LITTLE)] == [None, "RATE_LIMITED"]
        assert await statuses(strict, 1, credentials("ada")) == {200: 1}

    async def test_that_come_in_chunks_count_as_the_most_that_may_come(
        self, strict: Edge, backend: Backend, credentials: Any
    ) -> None:
        async def arriving() -> AsyncIterator[bytes]:
            yield b"{}"

        async with strict.client(headers=credentials("ada")) as client:
            answers = [await client.post("/v1/users", content=arriving()) for _ in range(2)]
        assert answers[0].status_code == 200
        rest_refusal(answers[1]).is_row(REPLIES[429], http_status=429)


class TestAddress:
    async def test_without_credentials_is_counted(self, strict: Edge, backend: Backend) -> None:
        assert await statuses(strict, ANONYMOUS + 5, {}) == {401: ANONYMOUS, 429: 5}
        async with strict.client() as client:
            rest_refusal(await client.get("/v1/me")).is_row(REPLIES[429], http_status=429)
        # From another address, and with a credential, it goes on.
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(transport=elsewhere, base_url=strict.url) as client:
            assert (await client.get("/v1/me")).status_code == 401
        assert await statuses(strict, 1, strict.credentials) == {200: 1}
