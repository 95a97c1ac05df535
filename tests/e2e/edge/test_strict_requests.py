"""What the edge refuses of a REST request's parameters and of bodies without looking into them (ADR 16)."""

import re
from typing import Any, Final
from urllib.parse import unquote_plus

import httpx
import pytest
from api_common.errors import json_path
from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, rest_refusal, violation
from tests.protos import option, public_methods

JSON: Final = {"content-type": "application/json"}
VERBS: Final = ("get", "post", "patch", "delete")


class TestParameter:
    @pytest.mark.parametrize(
        ("path", "field", "description"),
        [
            ("/v1/users?nothing=1", "nothing", "is unknown"),
            ("/v1/users?pageSize=1&nothing", "nothing", "is unknown"),
            ("/v1/users?page%53ize=1", "page%53ize", "is unknown"),
            ("/v1/users?pagesize=1", "pagesize", "is unknown"),
            ("/v1/users?=1", "", "is unknown"),
            ("/v1/users?user.email=a", "user.email", "is unknown"),
            ("/v1/users?access_token=a", "access_token", "is unknown"),
            ("/v1/users/a?id=a", "id", "is unknown"),
            ("/v1/users?pageSize=1&pageSize=2", "pageSize", "is there twice"),
            ("/v1/users?page_size=1&pageSize=1", "pageSize", "is there twice"),
            ("/v1/users?showDeleted", "showDeleted", "needs a value"),
            ("/v1/users?" + "x" * 5000 + "=1", "x" * 64, "is unknown"),
        ],
    )
    async def test_that_is_not_one_is_named(
        self, rest: httpx.AsyncClient, backend: Backend, path: str, field: str, description: str
    ) -> None:
        assert violation(await rest.get(path)) == (field, description)
        assert backend.calls == []

    @pytest.mark.parametrize(
        ("query", "field", "description"),
        [
            *((f"pageSize={value}", "pageSize", "must be a whole number") for value in ("many", "", "1.5", "1e1")),
            ("pageSize=2147483648", "pageSize", "must be from -2147483648 to 2147483647"),
            *((f"showDeleted={value}", "showDeleted", "must be true or false") for value in ("yes", "1")),
            *((f"filter=a{value}", "filter", "is not UTF-8") for value in ("%FF", "%C3", "%ED%A0%80", "%C0%80")),
        ],
    )
    async def test_of_another_type_is_refused(
        self, rest: httpx.AsyncClient, backend: Backend, query: str, field: str, description: str
    ) -> None:
        response = await rest.get(f"/v1/users?{query}")
        assert violation(response) == (field, description)
        assert backend.calls == []

    async def test_in_the_path_is_utf8(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        for verb, path, field in (("GET", "/v1/users/%FF", "id"), ("PATCH", "/v1/users/a%C0%80", "user.id")):
            assert violation(await rest.request(verb, path, json={})) == (field, "is not UTF-8")
        assert backend.calls == []

    @pytest.mark.parametrize("value", ["%C3%A9", "%E2%82%AC", "%F0%9F%98%80", "a+b"])
    async def test_of_every_language_passes(self, rest: httpx.AsyncClient, backend: Backend, value: str) -> None:
        assert (await rest.get(f"/v1/users?filter={value}&pageSize=7")).status_code == 200
        assert backend.calls[0].request.filter == unquote_plus(value)

    @pytest.mark.parametrize(
        ("query", "body", "mask"),
        [
            ("", {"roles": []}, ["roles"]),
            ("", {"displayName": "a", "labels": {}, "email": None}, ["display_name", "email", "labels"]),
            ("", {"id": "a", "etag": '"1"', "state": "ACTIVE", "tenantId": "b", "roles": ["admin"]}, ["roles"]),
            ("", {"id": "a", "etag": '"1"'}, []),
            ("?updateMask=email", {"roles": []}, ["email"]),
            ("?update_mask=email", {"roles": []}, ["email"]),
            ("?updateMask=*", {"roles": []}, ["*"]),
        ],
    )
    async def test_that_names_no_mask_makes_one_of_the_body(
        self, rest: httpx.AsyncClient, backend: Backend, query: str, body: dict[str, Any], mask: list[str]
    ) -> None:
        response = await rest.patch(f"/v1/users/a{query}", json=body)
        assert response.status_code == 200, response.text
        assert sorted(backend.calls[0].request.update_mask.paths) == mask

    async def test_beside_a_body_is_not_of_the_body(self, rest: httpx.AsyncClient, backend: Backend) -> None:
        assert violation(await rest.patch("/v1/users/a?user.email=b", json={}))[0] == "user.email"
        assert violation(await rest.post("/v1/users/a:suspend?etag=1", json={}))[0] == "etag"
        assert backend.calls == []


class TestBody:
    @pytest.mark.parametrize(
        ("verb", "path"),
        [("GET", "/v1/me"), ("DELETE", "/v1/users/a"), ("POST", KEY := "/v1/serviceAccounts/a/keys/b:revoke")],
    )
    @pytest.mark.parametrize("body", ["[]", "null", " ", '{"id": "b"}', "{}{}", "{"])
    async def test_where_none_belongs_is_refused(
        self, rest: httpx.AsyncClient, backend: Backend, verb: str, path: str, body: str
    ) -> None:
        response = await rest.request(verb, path, content=body, headers=JSON)
        assert violation(response) == ("", "The body must be empty: this method takes none.")
        assert backend.calls == []

    @pytest.mark.parametrize(
        ("verb", "path"), [("GET", "/v1/me"), ("DELETE", "/v1/users/a"), ("GET", "/v1/users/a?"), ("POST", KEY)]
    )
    @pytest.mark.parametrize("body", ["{}", " {\n} "])
    async def test_that_says_nothing_passes_where_none_belongs(
        self, rest: httpx.AsyncClient, verb: str, path: str, body: str
    ) -> None:
        response = await rest.request(verb, path, content=body, headers=JSON)
        assert response.status_code == 200, response.text

    @pytest.mark.parametrize(
        "content_type",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=a",
            "application/json; charset=latin1",
            "application/jsonp",
            "application/merge-patch+json",
            "application/json, text/plain",
            "application/xml",
            "",
        ],
    )
    async def test_of_another_type_is_415(self, rest: httpx.AsyncClient, backend: Backend, content_type: str) -> None:
        response = await rest.post("/v1/users", content=b'{"email": "a"}', headers={"content-type": content_type})
        rest_refusal(response).is_row(REPLIES[415], http_status=415)
        assert backend.calls == []

    async def test_of_grpc_on_a_path_of_rest_is_refused_as_grpc(
        self, rest: httpx.AsyncClient, backend: Backend
    ) -> None:
        response = await rest.post("/v1/users", content=b"{}", headers={"content-type": "application/grpc"})
        assert (response.status_code, response.headers["error-type"]) == (200, "UNSUPPORTED_MEDIA_TYPE")
        assert backend.calls == []

    @pytest.mark.parametrize("content_type", ["application/json", "Application/JSON;charset=UTF-8", None])
    async def test_of_json_passes(self, rest: httpx.AsyncClient, content_type: str | None) -> None:
        headers = {"content-type": content_type} if content_type else {}
        assert (await rest.post("/v1/users", content=b'{"email": "a"}', headers=headers)).status_code == 200

    @pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "identity", "gzip, gzip"])
    async def test_in_a_coding_is_415(self, rest: httpx.AsyncClient, backend: Backend, coding: str) -> None:
        response = await rest.post("/v1/users", content=b"{}", headers=JSON | {"content-encoding": coding})
        rest_refusal(response).is_row(REPLIES[415], http_status=415)
        assert backend.calls == []


def rest_of(method: MethodDescriptor) -> tuple[str, str]:
    """Returns verb and path of a method, with an id for every variable."""
    rule = option(method, annotations_pb2.http)
    verb = rule.WhichOneof("pattern")
    assert verb in VERBS
    return verb.upper(), re.sub(r"\{[^}]*\}", "1", getattr(rule, verb))


@pytest.mark.parametrize("method", public_methods(), ids=lambda method: method.full_name)
class TestEveryMethod:
    async def test_knows_its_fields_and_parameters(self, rest: httpx.AsyncClient, method: MethodDescriptor) -> None:
        verb, path = rest_of(method)
        assert violation(await rest.request(verb, f"{path}?x-ray=1")) == ("x-ray", "is unknown")
        response = await rest.request(verb, path, content='{"x-ray": 1}', headers=JSON)
        body = option(method, annotations_pb2.http).body
        field = {"": "", "*": "x-ray"}.get(body, f"{json_path(body)}.x-ray")
        assert violation(response)[0] == field
