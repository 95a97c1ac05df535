"""Streams at the edge: silence ends them, heartbeats do not, and they take no room from calls."""

import asyncio
import json
from typing import Any

import grpc
import httpx
from ameide.common.v1 import watch_pb2
from ameide.user.v1 import user_pb2 as pb
from ameide.user.v1.user_pb2_grpc import UserServiceStub

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, USERS
from tests.e2e.edge.connect import envelope, stream_refusal
from tests.e2e.edge.histories import watch_users
from tests.e2e.edge.plugin import STREAMS, Edge
from tools.topology import NAMED

S = grpc.StatusCode
BEAT = pb.WatchUsersResponse(heartbeat=watch_pb2.Heartbeat())
# Together half as long again as what the impatient edge takes for silence.
BEATS = 30
BEAT_SECONDS = 0.1


async def silent(_request: Any, _context: Any) -> None:
    await asyncio.Event().wait()


async def beating(_request: Any, context: Any) -> None:
    for _ in range(BEATS):
        await context.write(BEAT)
        await asyncio.sleep(BEAT_SECONDS)


async def chosen(request: Any, context: Any) -> None:
    """Is silent, or beats, as the request's filter says."""
    await {"silent": silent, "beating": beating}[request.filter](request, context)


def watch(channel: grpc.aio.Channel, edge: Edge, kind: str) -> Any:
    request = pb.WatchUsersRequest(filter=kind)
    return UserServiceStub(channel).WatchUsers(request, metadata=tuple(edge.credentials.items()))


class TestSilence:
    async def test_ends_a_stream_and_heartbeats_keep_it(self, impatient: Edge, backend: Backend) -> None:
        backend.script["WatchUsers"] = chosen
        async with impatient.channel() as channel, impatient.client(headers=impatient.credentials) as rest:
            kept = watch(channel, impatient, "beating")
            beats = asyncio.ensure_future(_count(kept))
            ended = watch(channel, impatient, "silent")
            told = await rest.get("/v1/users:watch", params={"filter": "silent"})
            # Not 408: the request has arrived.
            assert (await ended.code(), told.status_code) == (S.DEADLINE_EXCEEDED, 504)
            reasons = {dict(tuple(await ended.trailing_metadata()))["error-type"], told.headers["error-type"]}
            assert reasons == {"DEADLINE_EXCEEDED"}
            assert (await beats, await kept.code()) == (BEATS, S.OK)


class TestEvents:
    """What the standard of server-sent events asks for (html.spec.whatwg.org, section 9.2)."""

    async def test_have_the_ids_with_which_a_client_comes_back(self, edge: Edge, backend: Backend) -> None:
        backend.script["WatchUsers"] = watch_users()
        async with edge.client(headers=edge.credentials) as rest:
            first = await _events(rest, 3)
            assert [id for id, _ in first] == ["0", "1", "2"]
            assert all(message["resumeToken"] == id for id, message in first)
            # The header says more than the URL, which a client repeats as it was.
            after = await _events(rest, 2, resumeToken="1", last_event="7")
            assert [message["resumeToken"] for _, message in after] == ["7", "8"]
            again = await _events(rest, 2, resumeToken="1", last_event="7&x=1")
            assert [message["resumeToken"] for _, message in again] == ["1", "2"]
        assert not any("last-event-id" in one.metadata for one in backend.calls)


async def _events(rest: httpx.AsyncClient, count: int, last_event: str = "", **query: str) -> list[tuple[str, Any]]:
    """Returns the ids and messages of the first events of a watch."""
    found: list[tuple[str, Any]] = []
    headers = {"last-event-id": last_event} if last_event else {}
    async with rest.stream("GET", "/v1/users:watch", params=query, headers=headers) as response:
        id = ""
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                id = value
            elif name == "data":
                found.append((id, json.loads(value)))
            if len(found) == count:
                break
    return found


async def _count(call: Any) -> int:
    return len([message async for message in call])


class TestBreaker:
    async def test_of_streams_is_not_that_of_calls(self, impatient: Edge, backend: Backend) -> None:
        backend.script["WatchUsers"] = silent
        async with impatient.channel() as channel, impatient.client(headers=impatient.credentials) as rest:
            held = [watch(channel, impatient, "silent") for _ in range(STREAMS)]
            while len(backend.calls) < STREAMS:
                await asyncio.sleep(0.01)
            beyond = watch(channel, impatient, "silent")
            assert await beyond.code() is S.UNAVAILABLE
            connect = {"content-type": "application/connect+proto", "connect-protocol-version": "1"}
            refused = await rest.post(f"{USERS}/WatchUsers", content=envelope(b""), headers=connect)
            stream_refusal(refused, "proto").is_row(REPLIES[503], http_status=200)
            # This edge gives a call 0.3 s, which a busy machine may need for itself.
            while (answer := await rest.get("/v1/me")).status_code == 504:
                pass
            assert answer.status_code == 200
            for call in held:
                call.cancel()

    async def test_is_as_it_is_written(self, edge: Edge) -> None:
        async with httpx.AsyncClient(base_url=edge.admin, verify=False) as admin:
            dump = (await admin.get("/config_dump", params={"resource": "dynamic_active_clusters"})).json()["configs"]
        found = {one["cluster"]["name"]: one["cluster"].get("circuit_breakers") for one in dump}
        for name in NAMED:
            calls, streams = found[name]["thresholds"]
            assert "priority" not in calls
            assert (streams["priority"], streams["max_requests"], streams["track_remaining"]) == ("HIGH", 4096, True)
