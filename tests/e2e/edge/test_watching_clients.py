"""Watches of the Python clients through the real edge: they go on by themselves, or tell why not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest
from ameide_client import AsyncClient, Client, RetryPolicy, errors, types

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.histories import CHANGES, watch_users
from tests.e2e.edge.plugin import Edge, Issuer

Next = Callable[[], Awaitable[Any]]
Open = Callable[..., tuple[Any, Next]]
QUICK: Final = RetryPolicy(first_pause_seconds=0.01)
PASSES: Final = ("unavailable", "slow", "expired", "completed", "refused unavailable, refused slow")
"""How streams end that are opened again."""


@pytest.fixture
def waiting() -> list[str]:
    """The streams that wait at the service for something to happen, by their filters."""
    return []


async def until(fact: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not fact():
            await asyncio.sleep(0.01)


@pytest.fixture(params=[Client, AsyncClient], ids=["threads", "asyncio"])
async def watch(
    request: pytest.FixtureRequest, edge: Edge, backend: Backend, waiting: list[str]
) -> AsyncIterator[Open]:
    """Opens a watch of each kind of client: itself, and what waits for its next change, or for None at its end."""
    backend.script["WatchUsers"] = watch_users(waiting)
    clients: list[Client | AsyncClient] = []

    def open_watch(token: Any = edge.token, **options: Any) -> tuple[Any, Next]:
        client = request.param(edge.url, token=token, retry=QUICK)
        clients.append(client)
        watch = client.users.watch(**options)
        if isinstance(client, AsyncClient):
            return watch, lambda: anext(watch, None)
        return watch, lambda: asyncio.to_thread(next, watch, None)

    yield open_watch
    for client in clients:
        await (client.close() if isinstance(client, AsyncClient) else asyncio.to_thread(client.close))


class TestWatch:
    async def test_tells_what_happens_and_where_it_is(self, watch: Open, backend: Backend) -> None:
        watching, following = watch(initial_state=True)
        assert watching.resume_token == ""
        changes = [(await following(), watching.resume_token) for _ in range(3)]
        assert [(one.kind, one.resource.id, token) for one, token in changes] == [
            ("updated", "1", "1"),
            ("deleted", "2", "2"),
            ("created", "3", "3"),
        ]
        (call,) = backend.calls
        assert call.request.initial_state
        assert "idempotency-key" not in call.metadata

    async def test_has_no_deadline_of_the_clients(self, watch: Open, backend: Backend) -> None:
        _, following = watch()
        await following()
        assert (backend.calls[0].seconds_left or 0) > 3600

    async def test_begins_where_it_is_told(self, watch: Open) -> None:
        _, following = watch(resume_token="7")
        assert (await following()).resource.id == "8"

    @pytest.mark.parametrize("ending", PASSES)
    async def test_goes_on_after(self, watch: Open, backend: Backend, ending: str) -> None:
        watching, following = watch(filter=", ".join([ending] * 2))
        seen = [await following() for _ in range(CHANGES - 2 * (ending == "completed"))]
        skipped = {3, 6} if ending == "completed" else set()
        assert [int(one.resource.id) for one in seen] == [n for n in range(1, CHANGES + 1) if n not in skipped]
        assert watching.resume_token == str(CHANGES)
        assert len({one.request.filter for one in backend.calls}) == 1

    async def test_asks_for_the_credential_each_time(self, watch: Open, backend: Backend, issuer: Issuer) -> None:
        tokens = [issuer.token(sub=name) for name in ("first", "second", "third")]
        _, following = watch(token=iter(tokens).__next__, filter="expired, completed")
        for _ in range(6):
            await following()
        assert [one.metadata["authorization"] for one in backend.calls] == [f"Bearer {token}" for token in tokens]

    @pytest.mark.parametrize(
        ("ending", "error"),
        [
            ("forbidden", errors.PermissionDeniedError),
            ("gone", errors.ResumeTokenExpiredError),
            ("expired, refused expired", errors.UnauthenticatedError),
        ],
    )
    async def test_raises_what_does_not_pass(
        self, watch: Open, backend: Backend, ending: str, error: type[Exception]
    ) -> None:
        watching, following = watch(filter=ending)
        assert [(await following()).resource.id for _ in range(2)] == ["1", "2"]
        with pytest.raises(error):
            await following()
        assert watching.resume_token == "2"
        assert len(backend.calls) == len(ending.split(", "))
        # A client that handles the message goes on.
        assert (await following()).resource.id == "3"

    async def test_is_patient_for_so_long(self, watch: Open, backend: Backend) -> None:
        _, following = watch(filter=", ".join(["refused unavailable"] * 1000), patience_seconds=0.3)
        started = asyncio.get_running_loop().time()
        with pytest.raises(errors.UnavailableError):
            await following()
        assert asyncio.get_running_loop().time() - started >= 0.3
        assert len(backend.calls) > 1

    async def test_ends_for_whoever_waits_when_it_is_closed(self, watch: Open, waiting: list[str]) -> None:
        watching, following = watch(resume_token=str(CHANGES))
        change = asyncio.ensure_future(following())
        await until(lambda: len(waiting) == 1)
        closed = watching.close()
        if closed is not None:
            await closed
        assert await asyncio.wait_for(change, 10) is None
        assert await following() is None
        await until(lambda: not waiting)

    async def test_ends_when_nobody_has_it_any_longer(self, watch: Open, waiting: list[str]) -> None:
        watching, following = watch()
        await following()
        await until(lambda: len(waiting) == 1)
        del watching, following
        await until(lambda: not waiting)


class TestAsyncWatch:
    async def test_goes_on_when_somebody_has_stopped_waiting(self, edge: Edge, backend: Backend) -> None:
        backend.script["WatchUsers"] = watch_users()
        async with AsyncClient(edge.url, token=edge.token, retry=QUICK) as client:
            watching = client.users.watch(resume_token=str(CHANGES - 1))
            assert (await anext(watching)).resource.id == str(CHANGES)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(watching), 0.1)
            assert watching.resume_token == str(CHANGES)
            backend.script["WatchUsers"] = _one_more
            assert (await anext(watching)).resource.id == "more"


async def _one_more(request: types.WatchUsersRequest, context: Any) -> None:
    await context.write(types.WatchUsersResponse(resume_token=request.resume_token, created=types.User(id="more")))
