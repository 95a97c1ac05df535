"""The Python client, in both its kinds, through the real edge to a service that fails as it is told."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from ameide.edge.v1 import ext_authz_pb2 as edge_pb
from ameide_client import ApiError, AsyncClient, Client, RetryPolicy, errors, types
from api_common.authn import INTERNAL_ISSUER
from api_common.errors import (
    AuthorizationError,
    DomainError,
    ExternalServiceError,
    FieldViolation,
    RateLimitError,
    render,
)
from api_common.errors import ValidationError as InvalidError
from users_service.errors import EmailTakenError

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.plugin import Edge, Issuer

Use = Callable[[Callable[[Any], Any]], Awaitable[Any]]
Open = Callable[..., Use]

QUICK = RetryPolicy(first_pause_seconds=0.01)
ONCE = RetryPolicy(max_attempts=1)
ADA = types.User(display_name="Ada", email="ada@example.com")


@pytest.fixture(params=[Client, AsyncClient], ids=["threads", "asyncio"])
async def connect(request: pytest.FixtureRequest, edge: Edge) -> AsyncIterator[Open]:
    """Opens a client of each kind; a test then says `await call(lambda api: api.users.get(id))`."""
    clients: list[Client | AsyncClient] = []

    def open_client(**options: Any) -> Use:
        client = request.param(edge.url, **{"retry": QUICK} | options)
        clients.append(client)

        async def use(what: Callable[[Any], Any]) -> Any:
            return await (what(client) if isinstance(client, AsyncClient) else asyncio.to_thread(what, client))

        return use

    yield open_client
    for client in clients:
        await (client.close() if isinstance(client, AsyncClient) else asyncio.to_thread(client.close))


@pytest.fixture
def call(connect: Open, edge: Edge) -> Use:
    """Calls with a good token."""
    return connect(token=edge.token)


def failing(error: DomainError, *, times: int = 99) -> Any:
    """Answers with ``error`` as a service would, so many times; then with Ada."""
    left = times

    async def answer(request: Any, context: Any) -> types.User:
        nonlocal left
        left -= 1
        if left >= 0:
            code, message, trailers = render(error, request_id="the-id")
            await context.abort(code, message, trailers)
        return ADA

    return answer


class TestRetry:
    async def test_of_a_write_has_the_key_of_the_first_attempt(self, call: Use, backend: Backend) -> None:
        backend.script["CreateUser"] = failing(ExternalServiceError("away"), times=2)
        assert await call(lambda api: api.users.create(ADA)) == ADA
        keys = [one.metadata["idempotency-key"] for one in backend.calls]
        assert len(keys) == 3
        assert len(set(keys)) == 1

    async def test_of_another_call_has_another_key(self, call: Use, backend: Backend) -> None:
        await call(lambda api: api.users.create(ADA))
        await call(lambda api: api.users.create(ADA))
        await call(lambda api: api.users.create(ADA, idempotency_key="mine"))
        first, second, third = (one.metadata["idempotency-key"] for one in backend.calls)
        assert first != second
        assert third == "mine"

    async def test_of_a_read_needs_no_key(self, call: Use, backend: Backend) -> None:
        # The edge itself asks a second time, so this reaches the client twice.
        backend.script["GetUser"] = failing(ExternalServiceError("away"), times=3)
        assert await call(lambda api: api.users.get("a")) == ADA
        assert len(backend.calls) == 4
        assert not any("idempotency-key" in one.metadata for one in backend.calls)

    async def test_of_a_read_says_which_age_it_accepts(self, call: Use, backend: Backend) -> None:
        await call(lambda api: api.users.get("a", max_age=5))
        await call(lambda api: api.users.batch_get(["a"], max_age=7))
        await call(lambda api: api.users.get("a"))
        assert [one.metadata.get("cache-control") for one in backend.calls] == ["max-age=5", "max-age=7", None]

    async def test_waits_as_long_as_the_server_asks(self, call: Use, backend: Backend) -> None:
        backend.script["CreateUser"] = failing(RateLimitError("later", retry_after_seconds=0.2), times=1)
        started = asyncio.get_running_loop().time()
        assert await call(lambda api: api.users.create(ADA)) == ADA
        assert asyncio.get_running_loop().time() - started >= 0.2

    async def test_is_not_begun_when_the_server_asks_for_longer_than_there_is(
        self, call: Use, backend: Backend
    ) -> None:
        backend.script["CreateUser"] = failing(RateLimitError("later", retry_after_seconds=60))
        with pytest.raises(errors.RateLimitedError) as raised:
            await call(lambda api: api.users.create(ADA, timeout=5))
        assert raised.value.retry_after_seconds == 60
        assert len(backend.calls) == 1

    async def test_does_not_happen_when_it_cannot_help(self, call: Use, backend: Backend) -> None:
        backend.script["CreateUser"] = failing(EmailTakenError("taken"))
        with pytest.raises(errors.EmailTakenError):
            await call(lambda api: api.users.create(ADA))
        assert len(backend.calls) == 1

    async def test_can_be_turned_off(self, connect: Open, edge: Edge, backend: Backend) -> None:
        call = connect(token=edge.token, retry=RetryPolicy(max_attempts=1))
        backend.script["CreateUser"] = failing(ExternalServiceError("away"))
        with pytest.raises(errors.UnavailableError):
            await call(lambda api: api.users.create(ADA))
        assert len(backend.calls) == 1

    async def test_can_be_turned_off_for_one_call(self, call: Use, backend: Backend) -> None:
        backend.script["CreateUser"] = failing(ExternalServiceError("away"))
        with pytest.raises(errors.UnavailableError):
            await call(lambda api: api.users.create(ADA, retry=ONCE))
        assert len(backend.calls) == 1

    async def test_is_logged(self, call: Use, backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "ameide_client")
        backend.script["CreateUser"] = failing(ExternalServiceError("away"), times=1)
        await call(lambda api: api.users.create(ADA))
        path = "/ameide.user.v1.UserService/CreateUser"
        failed, done = (one for one in caplog.records if one.name == "ameide_client")
        assert failed.getMessage() == f"{path}: attempt 1 failed: UNAVAILABLE: away\n  request id: the-id"
        assert done.getMessage() == f"{path}: attempt 2 succeeded"
        assert (failed.levelno, done.levelno) == (logging.INFO, logging.DEBUG)

    async def test_has_a_budget(self, call: Use, backend: Backend) -> None:
        backend.script["CreateUser"] = failing(ExternalServiceError("away"), times=10_000)
        for _ in range(20):
            with pytest.raises(errors.UnavailableError):
                await call(lambda api: api.users.create(ADA))
        assert len(backend.calls) < 30


class TestError:
    async def test_tells_what_the_server_told(self, call: Use, backend: Backend) -> None:
        violation = FieldViolation("user.email", "must be an address", "INVALID_FORMAT")
        backend.script["CreateUser"] = failing(InvalidError("Malformed.", violations=[violation]))
        with pytest.raises(errors.InvalidRequestError) as raised:
            await call(lambda api: api.users.create(ADA))
        error = raised.value
        assert (error.code, error.reason, error.message) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_REQUEST",
            "Malformed. user.email must be an address.",
        )
        assert error.request_id == "the-id"
        (found,) = error.violations
        expected = (violation.field, violation.description, violation.reason)
        assert (found.field, found.description, found.reason) == expected
        assert str(error) == (
            "INVALID_REQUEST: Malformed. user.email must be an address.\n  user.email: must be an address\n"
            "  request id: the-id"
        )

    async def test_of_the_edge_is_of_the_same_kind(self, connect: Open, backend: Backend) -> None:
        call = connect(token="not a token")
        with pytest.raises(errors.UnauthenticatedError) as raised:
            await call(lambda api: api.users.get("a"))
        assert raised.value.request_id
        assert backend.calls == []

    async def test_of_a_reason_that_is_newer_than_the_client_is_an_api_error(self, call: Use, backend: Backend) -> None:
        class NewerError(AuthorizationError):
            reason = "NEWER"

        backend.script["CreateUser"] = failing(NewerError("no"))
        with pytest.raises(ApiError) as raised:
            await call(lambda api: api.users.create(ADA))
        assert type(raised.value) is ApiError
        assert raised.value.reason == "NEWER"

    @pytest.mark.parametrize(
        ("url", "cause"),
        [
            ("http://127.0.0.1:9", "Nothing listens at the address: "),
            ("https://no-such-host.invalid", "The host is unknown: "),
        ],
    )
    async def test_without_a_server_has_a_reason_and_a_cause(self, url: str, cause: str) -> None:
        async with AsyncClient(url, token="t", retry=ONCE) as client:
            with pytest.raises(errors.UnavailableError) as raised:
                await client.users.get("a")
        assert str(raised.value).startswith(f"UNAVAILABLE: {cause}")

    async def test_of_a_server_that_says_nothing_is_of_the_timeout(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            async with AsyncClient(f"http://127.0.0.1:{silent.getsockname()[1]}", token="t", retry=ONCE) as client:
                with pytest.raises(errors.DeadlineExceededError, match="No answer came within the timeout"):
                    await client.users.get("a", timeout=0.3)


class TestEncryption:
    async def test_is_with_whom_the_caller_trusts(self, edge: Edge, backend: Backend) -> None:
        ca = (edge.folder / "certs" / "ca.pem").read_bytes()
        async with AsyncClient(edge.secure_url, token=edge.token, ca=ca) as client:
            await client.users.get("a")
        with Client(edge.secure_url, token=edge.token, ca=ca) as threads:
            await asyncio.to_thread(threads.users.get, "a")
        assert [one.method for one in backend.calls] == ["GetUser", "GetUser"]

    async def test_is_not_with_anybody_else(self, edge: Edge, backend: Backend) -> None:
        async with AsyncClient(edge.secure_url, token=edge.token, retry=RetryPolicy(max_attempts=1)) as client:
            with pytest.raises(errors.UnavailableError, match="The server's certificate is not trusted"):
                await client.users.get("a")
        ca = (edge.folder / "certs" / "ca.pem").read_bytes()
        elsewhere = edge.secure_url.replace("localhost", "127.0.0.2")
        async with AsyncClient(elsewhere, token=edge.token, ca=ca, retry=ONCE) as client:
            with pytest.raises(errors.UnavailableError, match="The server's certificate is for another host"):
                await client.users.get("a")
        assert backend.calls == []


class TestDeadline:
    async def test_is_known_to_the_service(self, call: Use, backend: Backend) -> None:
        await call(lambda api: api.users.get("a", timeout=7))
        await call(lambda api: api.users.get("a"))
        asked, usual = (one.seconds_left or 0 for one in backend.calls)
        assert 6 < asked < 8
        assert 29 < usual < 31

    async def test_ends_the_call(self, call: Use, backend: Backend) -> None:
        async def sleep(request: Any, context: Any) -> types.User:
            await asyncio.sleep(20)
            return ADA

        backend.script["GetUser"] = sleep
        with pytest.raises(errors.DeadlineExceededError):
            await call(lambda api: api.users.get("a", timeout=0.2))


class TestCredential:
    async def test_is_asked_for_before_each_attempt(self, connect: Open, backend: Backend, issuer: Issuer) -> None:
        tokens = [issuer.token(sub=name) for name in ("first", "second")]
        call = connect(token=iter(tokens).__next__)
        backend.script["CreateUser"] = failing(ExternalServiceError("away"), times=1)
        await call(lambda api: api.users.create(ADA))
        assert [one.metadata["authorization"] for one in backend.calls] == [f"Bearer {token}" for token in tokens]

    async def test_may_be_waited_for(self, edge: Edge, backend: Backend) -> None:
        async def token() -> str:
            return edge.token

        async with AsyncClient(edge.url, token=token) as client:
            await client.users.get("a")
        assert backend.calls[0].metadata["authorization"] == f"Bearer {edge.token}"

    async def test_may_be_in_a_file_that_changes(
        self, connect: Open, backend: Backend, issuer: Issuer, tmp_path: Path
    ) -> None:
        tokens, path = [issuer.token(sub=name) for name in ("first", "second")], tmp_path / "token"
        call = connect(token=path)
        for token in tokens:
            path.write_text(f"{token}\n")
            await call(lambda api: api.users.get("a"))
        assert [one.metadata["authorization"] for one in backend.calls] == [f"Bearer {token}" for token in tokens]

    @pytest.mark.parametrize("options", [{"token": "a\nb"}, {"token": ""}, {"token": lambda: "é"}, {"api_key": "a\tb"}])
    async def test_that_no_header_can_carry_is_refused_here(
        self, connect: Open, backend: Backend, options: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match="no header can carry"):
            await connect(**options)(lambda api: api.users.get("a"))
        assert backend.calls == []

    async def test_may_be_an_api_key(self, connect: Open, backend: Backend, issuer: Issuer) -> None:
        async def check(request: Any, context: Any) -> edge_pb.CheckResponse:
            token = issuer.token(iss=INTERNAL_ISSUER, exp=issuer.now() + 60)
            value = edge_pb.HeaderValue(key="authorization", value=f"Bearer {token}")
            option = edge_pb.HeaderValueOption(header=value, append_action=2)
            return edge_pb.CheckResponse(ok_response=edge_pb.OkHttpResponse(headers=[option]))

        backend.script["Check"] = check
        call = connect(api_key="the-key")
        await call(lambda api: api.users.get("a"))
        asked, _ = backend.calls
        assert asked.request.attributes.request.http.headers["x-api-key"] == "the-key"


class TestList:
    @pytest.fixture
    def pages(self, backend: Backend) -> list[list[str]]:
        """Five users on three pages, one of them empty."""
        held = [["a", "b"], [], ["c", "d", "e"]]

        async def answer(request: types.ListUsersRequest, context: Any) -> types.ListUsersResponse:
            number = int(request.page_token or 0)
            following = str(number + 1) if number + 1 < len(held) else ""
            return types.ListUsersResponse(users=[types.User(id=id) for id in held[number]], next_page_token=following)

        backend.script["ListUsers"] = answer
        return held

    async def test_goes_through_all_pages(self, call: Use, backend: Backend, pages: list[list[str]]) -> None:
        users = await call(lambda api: all_of(api.users.list(filter='state = "ACTIVE"', page_size=2)))
        assert [user.id for user in users] == ["a", "b", "c", "d", "e"]
        assert {(one.request.filter, one.request.page_size) for one in backend.calls} == {('state = "ACTIVE"', 2)}

    async def test_may_be_gone_through_again(self, call: Use, pages: list[list[str]]) -> None:
        kept: list[Any] = []

        def use(api: Any) -> Any:
            kept.append(api.users.list())
            return all_of(kept[0])

        await call(use)
        assert len(await call(lambda api: all_of(kept[0]))) == 5

    async def test_fetches_a_page_when_it_is_needed(self, call: Use, backend: Backend, pages: list[list[str]]) -> None:
        await call(lambda api: first_of(api.users.list()))
        assert len(backend.calls) == 1

    async def test_is_resumed_with_a_token(self, call: Use, pages: list[list[str]]) -> None:
        page = await call(lambda api: first_of(api.users.list().pages()))
        users = await call(lambda api: all_of(api.users.list(page_token=page.next_page_token)))
        assert [user.id for user in users] == ["c", "d", "e"]


def all_of(pager: Any) -> Any:
    """Returns everything in a list of either kind."""

    async def gather() -> list[Any]:
        return [one async for one in pager]

    return gather() if hasattr(pager, "__aiter__") else list(pager)


def first_of(pager: Any) -> Any:
    """Returns the first of what a list of either kind holds."""
    return anext(aiter(pager)) if hasattr(pager, "__aiter__") else next(iter(pager))
