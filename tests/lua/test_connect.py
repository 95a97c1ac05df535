"""What `transport.lua` makes of a request that speaks Connect; tests/e2e/edge/test_connect.py asks the edge."""

from typing import Final

import pytest

from tests.lua.filters import Passed, Transport

TRANSPORT: Final = Transport()
RPC: Final = "/ameide.user.v1.UserService/GetUser"
CREATE: Final = "/ameide.user.v1.UserService/CreateUser"
WATCH: Final = "/ameide.user.v1.UserService/WatchUsers"
VERSION: Final = "connect-protocol-version"


def ask(content_type: str | None, path: str = RPC, method: str = "POST", **more: str) -> Passed:
    headers = {":method": method, ":path": path} | ({"content-type": content_type} if content_type else {})
    return TRANSPORT.request(headers | {name.replace("_", "-"): value for name, value in more.items()})


def found(passed: Passed) -> dict[str, object]:
    return dict((passed.metadata["ameide.connect"] or {}).items())


@pytest.mark.parametrize(
    ("content_type", "path", "is_there"),
    [
        ("application/proto", RPC, {"shape": "unary", "codec": "proto"}),
        ("Application/Proto; x=y", RPC, {"shape": "unary", "codec": "proto"}),
        ("application/json", RPC, {"shape": "unary", "codec": "json"}),
        ("application/json;charset=utf-8", RPC, {"shape": "unary", "codec": "json"}),
        ("application/connect+proto", WATCH, {"shape": "stream", "codec": "proto"}),
        ("application/connect+json", "/no.such.Service/Method", {"shape": "stream", "codec": "json"}),
        ("application/json", "/v1/users", {}),
        ("application/grpc", RPC, {}),
        ("application/connect+xml", RPC, {}),
        ("text/plain", RPC, {}),
        (None, RPC, {}),
    ],
)
def test_is_known_by_its_type_and_path(content_type: str | None, path: str, is_there: dict[str, str]) -> None:
    assert found(ask(content_type, path)) == is_there


def test_with_its_version_is_known_on_every_path() -> None:
    assert found(ask("application/json", "/no.such.Service/Method", connect_protocol_version="1"))


@pytest.mark.parametrize(
    ("content_type", "has_version"),
    [
        ("application/proto", True),
        ("application/connect+proto", True),
        ("application/connect+json", True),
        ("application/json", False),
        ("application/grpc", False),
        ("text/plain", False),
    ],
)
@pytest.mark.parametrize("version", [{}, {"connect_protocol_version": "1"}])
def test_goes_through_the_bridge_unless_it_is_one_json_message(
    content_type: str, has_version: bool, version: dict[str, str]
) -> None:
    assert (VERSION in ask(content_type, **version).headers) is has_version


def test_of_another_version_reaches_the_filter_that_refuses_it() -> None:
    for content_type in ("application/proto", "application/json", "application/connect+json"):
        assert ask(content_type, connect_protocol_version="2").headers[VERSION] == "2"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("1", "1m"), ("0", "0m"), ("99999999", "99999999m"), ("100000000", "100000S"), ("9999999999", "9999999S")]
    + [(one, None) for one in ("", "x", "-1", "1.5", "12345678901", "1,2", " 1")],
)
def test_has_a_deadline_that_grpc_can_say(said: str, meant: str | None) -> None:
    headers = ask("application/proto", connect_timeout_ms=said).headers
    assert (headers.get("grpc-timeout"), "connect-timeout-ms" in headers) == (meant, False)


class TestCompression:
    def test_of_a_message_is_said_as_grpc_says_it(self) -> None:
        headers = ask("application/proto", content_encoding="gzip", grpc_encoding="x").headers
        assert (headers["grpc-encoding"], "content-encoding" in headers) == ("gzip", False)
        headers = ask("application/connect+proto", WATCH, connect_content_encoding="gzip").headers
        assert headers["grpc-encoding"] == "gzip"
        assert "grpc-encoding" not in ask("application/proto", content_encoding="identity").headers

    def test_of_json_is_left_to_who_refuses_it(self) -> None:
        for path, content_type, name in (
            (RPC, "application/json", "content_encoding"),
            (WATCH, "application/connect+json", "connect_content_encoding"),
        ):
            assert ask(content_type, path, **{name: "gzip"}).headers["content-encoding"] == "gzip"

    def test_of_an_answer_is_accepted_in_protobuf_only(self) -> None:
        headers = {
            codec: ask(f"application/connect+{codec}", WATCH, connect_accept_encoding="gzip, br", grpc_encoding="x")
            for codec in ("proto", "json")
        }
        assert headers["proto"].headers["grpc-accept-encoding"] == "gzip, br"
        assert "grpc-accept-encoding" not in headers["json"].headers
        assert "connect-accept-encoding" not in headers["proto"].headers


class TestGet:
    @pytest.mark.parametrize(
        ("path", "is_get"),
        [
            (f"{RPC}?connect=v1", True),
            (f"{RPC}?a=b&connect=v1", True),
            (f"{CREATE}?connect=v1", False),
            (f"{WATCH}?connect=v1", False),
        ],
    )
    def test_is_known_by_its_parameter(self, path: str, is_get: bool) -> None:
        passed = ask(None, path, "GET")
        assert found(passed)["shape"] == "unary"
        assert (passed.headers[":method"], found(passed).get("get")) == (("POST", True) if is_get else ("GET", None))

    @pytest.mark.parametrize("path", [RPC, f"{RPC}?connect=v2", f"{RPC}?%63onnect=v1", "/v1/users?connect=v1"])
    def test_is_nothing_else(self, path: str) -> None:
        assert not found(ask(None, path, "GET"))
