"""`mcp.lua` and `mcp_rest.lua`: what an AI agent sends, before and behind the bridge."""

import json
from typing import Any

import pytest

from tests.lua.filters import TOKEN, Filter, Passed, good_claims, verified

MESSAGE = Filter("mcp")
REQUEST = Filter("mcp_rest")
PATHS = Filter("admit")
IDS: list[Any] = [7, {}, [], True, "..", "a/../b", "./a"]
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get_me"}}


def read(content: str) -> Passed:
    return MESSAGE.request({":method": "POST", ":path": "/mcp"}, content.encode())


class TestMessage:
    def test_passes_as_it_is(self) -> None:
        assert read(json.dumps(CALL)).status is None

    @pytest.mark.parametrize("lacks", ["id", "method"])
    def test_that_wants_no_answer_gets_202(self, lacks: str) -> None:
        assert read(json.dumps({key: value for key, value in CALL.items() if key != lacks})).status == "202"

    @pytest.mark.parametrize("id", [7, "a", 'a"\\b', None, {"a": [1]}])
    def test_ping_gets_its_id_back(self, id: Any) -> None:
        answer = read(json.dumps({"id": id, "method": "ping"}))
        assert (answer.status, json.loads(answer.text or "")) == ("200", {"jsonrpc": "2.0", "id": id, "result": {}})

    @pytest.mark.parametrize(
        ("content", "field"),
        [
            ('{"id": 1, "id": 2}', "[id]"),
            ('{"params": {"arguments": {"a": 1, "a": 2}}}', "[params][arguments][a]"),
            ("[]", ""),
        ],
    )
    def test_that_is_read_differently_by_two_is_refused(self, content: str, field: str) -> None:
        answer = read(content)
        assert (answer.status, answer.metadata["strict"]["field"]) == ("422", field)
        assert answer.metadata["strict"]["reason"]

    def test_leaves_nothing_of_it_for_the_next(self) -> None:
        read(json.dumps(CALL))
        assert read("{}").status == "202"


def call(name: str, **arguments: Any) -> Passed:
    message = {"jsonrpc": "2.0", "id": "a", "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    return MESSAGE.request({":path": "/mcp", "x-request-id": "r"}, json.dumps(message).encode())


class TestArguments:
    def test_that_are_good_pass(self) -> None:
        assert call("update_user", id="a.b..c/d", user={}, ifMatch='"1"', idempotencyKey="k" * 255).status is None
        assert call("list_users", id="..").status is None
        assert call("nothing").status is None

    @pytest.mark.parametrize(
        ("arguments", "field", "reason"),
        [
            ({"user": {}}, "id", "REQUIRED"),
            ({"id": None, "user": {}}, "id", "REQUIRED"),
            ({"id": "", "user": {}}, "id", "REQUIRED"),
            *(({"id": said, "user": {}}, "id", "INVALID_FORMAT") for said in IDS),
            ({"id": "a"}, "user", "REQUIRED"),
            *(
                ({"id": "a", "user": {}, "ifMatch": one}, "ifMatch", "INVALID_FORMAT")
                for one in ("", 1, "\xfc", "k" * 256)
            ),
            ({"id": "a", "user": {}, "idempotencyKey": "a\r\nb: c"}, "idempotencyKey", "INVALID_FORMAT"),
        ],
    )
    def test_that_the_bridge_cannot_use_are_an_answer(self, arguments: Any, field: str, reason: str) -> None:
        answer = json.loads(call("update_user", **arguments).text or "")
        assert (answer["id"], answer["result"]["isError"]) == ("a", True)
        said = json.loads(answer["result"]["content"][0]["text"])
        (violation,) = said["details"][2]["fieldViolations"]
        assert (violation["field"], violation["reason"]) == (field, reason)
        assert said["message"].endswith(f"{field} {violation['description']}.")

    def test_that_are_missing_are_missing(self) -> None:
        message = {"id": 1, "method": "tools/call", "params": {"name": "get_user"}}
        assert "id is missing" in (read(json.dumps(message)).text or "")


class TestRequestOfTheBridge:
    def test_has_a_path_of_16_kib(self) -> None:
        start = "/v1/users/"
        assert REQUEST.request({":method": "GET", ":path": start + "x" * (16384 - len(start))}).status is None
        assert REQUEST.request({":method": "GET", ":path": start + "x" * (16385 - len(start))}).status == "400"

    def test_has_a_path_of_the_contract(self) -> None:
        """The transcoder finds ListUsers at the first."""
        for path in ("/v1/users/", "/v1/users//suspend"):
            assert REQUEST.request({":method": "GET", ":path": path}).status == "404"
        assert REQUEST.request({":method": "GET", ":path": "/mcp/users/tools.json"}).status is None

    def test_that_is_denied_is_an_answer_and_a_denied_message_is_not(self) -> None:
        called = REQUEST.request({":method": "GET", ":path": "/v1/me"}).metadata
        assert REQUEST.response({":status": "403"}, called)[":status"] == "400"
        assert REQUEST.response({":status": "401"}, called)[":status"] == "401"
        assert REQUEST.response({":status": "403"})[":status"] == "403"


class TestEndpoint:
    @staticmethod
    def ask(method: str, content_type: str = "application/json", size: str = "10") -> Passed:
        headers = {":method": method, ":path": "/mcp", "content-type": content_type, "x-ameide-size": size}
        bearer = {"authorization": f"Bearer {TOKEN}"}
        return PATHS.request(headers | bearer, b"", {"route": {"mcp": True}} | verified(good_claims()))

    def test_takes_posts_of_json_and_counts_their_bytes(self) -> None:
        passed = self.ask("POST", "Application/JSON; charset=utf-8")
        assert (passed.status, passed.metadata["ameide.announced"]["bytes"]) == (None, "10")
        assert (self.ask("GET").status, self.ask("GET").allow) == ("405", "POST")
        assert self.ask("POST", "application/grpc").status == "415"

    def test_takes_a_mebibyte(self) -> None:
        said = {size: self.ask("POST", size=size).status for size in ("1048576", "1048577", "chunked")}
        assert said == {"1048576": None, "1048577": "413", "chunked": None}
