"""When a watch goes on, and when not. Pauses are asked for, never waited."""

import logging
import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from ameide.common.v1 import watch_pb2
from ameide_client import types
from ameide_client.api_error import ApiError
from ameide_client.retries import RetryPolicy
from ameide_client.watching import AsyncWatch, Progress, Watch
from google.rpc import status_pb2

_S = grpc.StatusCode
AWAY = ApiError("away", code=_S.UNAVAILABLE)
BROKEN = ApiError("Received RST_STREAM with error code 2", code=_S.INTERNAL)
FAULTY = ApiError("fault", code=_S.INTERNAL, request_id="the-id")
EXPIRED = ApiError("expired", code=_S.UNAUTHENTICATED, request_id="the-id")
BOOKMARK = types.WatchUsersResponse(resume_token="b", bookmark=watch_pb2.Bookmark())
CHANGE = types.WatchUsersResponse(resume_token="c", updated=types.User(id="ada"))


METHOD: Any = SimpleNamespace(path="/a.UserService/WatchUsers")


def progress(*, patience_seconds: float = math.inf) -> Progress[types.User]:
    policy = RetryPolicy(first_pause_seconds=1, longest_pause_seconds=3)
    return Progress("/a.UserService/WatchUsers", "", policy, patience_seconds=patience_seconds)


class TestMessage:
    def test_of_a_change_is_handed_on(self) -> None:
        place = progress()
        change = place.take(CHANGE)
        assert change is not None
        assert (change.kind, change.resource, place.resume_token) == ("updated", types.User(id="ada"), "c")

    @pytest.mark.parametrize(
        "event",
        [
            {"bookmark": watch_pb2.Bookmark()},
            {"heartbeat": watch_pb2.Heartbeat()},
            {"completed": watch_pb2.Completed()},
            {"error": status_pb2.Status(code=14)},
            {},  # newer than this client
        ],
        ids=lambda event: next(iter(event), "unknown"),
    )
    def test_of_anything_else_only_moves_the_token(self, event: dict[str, Any]) -> None:
        place = progress()
        assert place.take(types.WatchUsersResponse(resume_token="t", **event)) is None
        assert place.resume_token == "t"

    def test_without_a_token_leaves_it_where_it_is(self) -> None:
        place = progress()
        place.take(CHANGE)
        place.take(types.WatchUsersResponse(error=status_pb2.Status(code=14)))
        assert place.resume_token == "c"


class TestPause:
    def test_grows_while_nothing_comes(self) -> None:
        pauses = []
        for _ in range(200):
            place = progress()
            pauses.append([place.pause_seconds(AWAY) for _ in range(3)])
        longest = [max(one[number] for one in pauses) for number in range(3)]
        assert 0.5 < longest[0] <= 1 < longest[1] <= 2 < longest[2] <= 3

    def test_is_bounded_for_as_long_as_it_takes(self) -> None:
        place = progress()
        assert max(place.pause_seconds(AWAY) for _ in range(2000)) <= 3

    def test_is_short_again_after_a_change(self) -> None:
        place = progress()
        for _ in range(500):
            place.pause_seconds(AWAY)
            place.take(CHANGE)
            assert place.pause_seconds(AWAY) <= 1

    def test_grows_when_a_server_says_nothing_but_hello(self) -> None:
        place = progress()
        pauses = []
        for _ in range(200):
            place.take(BOOKMARK)
            pauses.append(place.pause_seconds(AWAY))
        assert max(pauses) > 2

    def test_is_never_shorter_than_the_server_asks(self) -> None:
        asked = ApiError("", code=_S.RESOURCE_EXHAUSTED, retry_after_seconds=7, request_id="the-id")
        assert 7 <= progress().pause_seconds(asked) <= 8


class TestEnd:
    @pytest.mark.parametrize("error", [FAULTY, BROKEN, EXPIRED], ids=str)
    def test_is_what_a_stream_begins_with(self, error: ApiError) -> None:
        with pytest.raises(ApiError) as raised:
            progress().pause_seconds(error)
        assert raised.value is error

    @pytest.mark.parametrize(("error", "passes"), [(FAULTY, False), (BROKEN, True), (EXPIRED, True)], ids=str)
    def test_of_a_stream_that_was_good_is_told_from_a_loss(self, error: ApiError, passes: bool) -> None:
        place = progress()
        place.take(BOOKMARK)
        if not passes:
            with pytest.raises(ApiError):
                place.pause_seconds(error)
            return
        assert place.pause_seconds(error) <= 1
        # Once: the next stream was none.
        with pytest.raises(ApiError):
            place.pause_seconds(error)

    def test_comes_when_patience_does(self) -> None:
        place = progress(patience_seconds=0)
        place.take(CHANGE)
        assert place.pause_seconds(AWAY) <= 1
        place.take(BOOKMARK)
        with pytest.raises(ApiError) as raised:
            place.pause_seconds(AWAY)
        assert raised.value is AWAY


def test_each_attempt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ameide_client")
    place = progress()
    place.take(CHANGE)
    for _ in range(2):
        place.pause_seconds(AWAY)
    place.take(BOOKMARK)
    place.take(CHANGE)
    place.pause_seconds(AWAY)
    place.take(CHANGE)
    told = [("succeeded", 1), ("failed", 1), ("failed", 2), ("succeeded", 3), ("failed", 3), ("succeeded", 2)]
    assert [one.getMessage().removesuffix(f": {AWAY}") for one in caplog.records] == [
        f"/a.UserService/WatchUsers: attempt {number} {what}" for what, number in told
    ]


class Call:
    """A stream that says what it is told to, to either kind of watch."""

    def __init__(self, before_message: Callable[[], Any]) -> None:
        self._before_message = before_message
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    def __iter__(self) -> Iterator[Any]:
        while not self.is_cancelled:
            self._before_message()
            yield BOOKMARK

    async def read(self) -> Any:
        await self._before_message()
        return BOOKMARK


@pytest.mark.parametrize("closed", ["while it opens", "just before a message is read"])
class TestClose:
    def test_ends_a_watch(self, closed: str) -> None:
        call = Call(lambda: pytest.fail("would wait") if closed == "while it opens" else watch.close())

        def stream(*_: Any) -> Call:
            if closed == "while it opens":
                watch.close()
            return call

        calls = SimpleNamespace(retry=RetryPolicy(), stream=stream)
        watch: Watch[types.User] = Watch(calls, METHOD, lambda _: types.WatchUsersRequest(), "", math.inf)
        assert list(watch) == []
        assert call.is_cancelled

    async def test_ends_an_asynchronous_watch(self, closed: str) -> None:
        call = Call(lambda: pytest.fail("would wait") if closed == "while it opens" else watch.close())

        async def stream(*_: Any) -> Call:
            if closed == "while it opens":
                await watch.close()
            return call

        calls = SimpleNamespace(retry=RetryPolicy(), stream=stream)
        watch: AsyncWatch[types.User] = AsyncWatch(calls, METHOD, lambda _: types.WatchUsersRequest(), "", math.inf)
        assert [change async for change in watch] == []
        assert call.is_cancelled
