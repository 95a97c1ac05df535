"""Batches through the edge: many ids in a query, many requests in a body, one refusal that names its item."""

from typing import Any

import grpc
import httpx
from ameide.user.v1 import user_pb2 as pb
from api_common.errors import EtagMismatchError, PayloadTooLargeError, render

from tests.e2e.edge.backend import Answer, Backend

ONE, TWO = "01900000-0000-7000-8000-000000000001", "01900000-0000-7000-8000-000000000002"


def refusing(error: Any) -> Answer:
    async def answer(_: Any, context: Any) -> None:
        await context.abort(*render(error, request_id=ONE))

    return answer


class TestBatchGet:
    async def test_takes_ids_from_the_query_in_their_order(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        many = [TWO, ONE, *(f"01900000-0000-7000-8000-{number:012}" for number in range(3, 101))]
        response = await rest.get("/v1/users:batchGet", params=[("ids", id) for id in many])
        assert (response.status_code, response.json()) == (200, {"users": []})
        (call,) = backend.calls
        assert (call.method, list(call.request.ids)) == ("BatchGetUsers", many)

    async def test_is_asked_again_when_the_service_is_busy(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        async def busy(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "busy")

        backend.script["BatchGetUsers"] = backend.script["BatchDeleteUsers"] = busy
        await rest.get("/v1/users:batchGet", params={"ids": ONE})
        assert len(backend.calls) == 2
        await rest.post("/v1/users:batchDelete", json={"requests": [{"id": ONE}]})
        assert len(backend.calls) == 3


class TestBatchOfRequests:
    async def test_takes_ids_masks_and_etags_of_each_from_the_body(
        self, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        changes = [
            {"user": {"id": ONE, "etag": '"1"', "displayName": "A"}, "updateMask": "displayName,labels"},
            {"user": {"id": TWO, "email": "b@example.com"}},
        ]
        assert (await rest.post("/v1/users:batchUpdate", json={"requests": changes})).status_code == 200
        first, second = backend.calls[0].request.requests
        assert (first.user.id, first.user.etag, list(first.update_mask.paths)) == (
            ONE,
            '"1"',
            ["display_name", "labels"],
        )
        assert second == pb.UpdateUserRequest(user=pb.User(id=TWO, email="b@example.com"))

    async def test_refuses_fields_that_an_item_does_not_have(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        wanted = {"requests": [{"user": {"displayName": "A"}}, {"user": {"displayname": "B"}}]}
        response = await rest.post("/v1/users:batchCreate", json=wanted)
        assert response.status_code == 400
        (named,) = (one["fieldViolations"] for one in response.json()["details"] if "fieldViolations" in one)
        assert [violation["field"] for violation in named] == ["requests[1].user.displayname"]
        assert backend.calls == []

    async def test_tells_which_item_was_refused(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        error = EtagMismatchError("The user has changed.")
        error.attach_item("requests[3]")
        backend.script["BatchDeleteUsers"] = refusing(error)
        response = await rest.post("/v1/users:batchDelete", json={"requests": [{"id": ONE}]})
        assert response.status_code == 409
        info, *others = response.json()["details"]
        assert (info["reason"], info["metadata"]) == ("ETAG_MISMATCH", {"item": "requests[3]"})
        (named,) = (one["fieldViolations"] for one in others if "fieldViolations" in one)
        assert named[0]["field"] == "requests[3]"

    async def test_whose_answer_is_too_large_is_413(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        backend.script["BatchUpdateUsers"] = refusing(PayloadTooLargeError("Name fewer at once."))
        response = await rest.post("/v1/users:batchUpdate", json={"requests": [{"user": {"id": ONE}}]})
        assert (response.status_code, response.json()["message"]) == (413, "Name fewer at once.")
