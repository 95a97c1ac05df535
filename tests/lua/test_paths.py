"""`paths.lua`: what is refused before its body is kept, and how much of it counts."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.lua.filters import TOKEN, Filter, Passed, good_claims, verified

PATHS: Final = Filter("admit")
RPC: Final = "/ameide.user.v1.UserService/CreateUser"
WATCH: Final = "/ameide.user.v1.UserService/WatchUsers"
BEARER: Final = {"authorization": f"Bearer {TOKEN}"}
MAX_BYTES: Final = 10 * 1024**2 + 5
ADA: Final = verified(good_claims())


def ask(method: str, path: str, size: str | None = None, metadata: Mapping[str, Any] = ADA) -> Passed:
    headers = {":method": method, ":path": path, "content-type": "application/grpc", **BEARER}
    return PATHS.request(headers | ({"x-ameide-size": size} if size else {}), b"", metadata)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/users", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/v1/users/x", "DELETE, GET, HEAD, PATCH, OPTIONS"),
        ("GET", "/v1/users/x:suspend?y", "POST, OPTIONS"),
        ("FOO", "/v1/users:watch", "GET, OPTIONS"),
    ],
)
def test_another_method_is_refused_with_those_that_are_served(method: str, path: str, allow: str) -> None:
    refused = ask(method, path)
    assert (refused.status, refused.allow) == ("405", allow)


def test_head_asks_for_what_get_returns_but_for_no_stream() -> None:
    head = {**ADA, "ameide.edge": {"head": True}}
    assert ask("GET", "/v1/users", None, head).status is None
    refused = ask("GET", "/v1/users:watch", None, head)
    assert (refused.status, refused.allow) == ("405", "GET, OPTIONS")


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "PUT"])
@pytest.mark.parametrize(
    "path",
    [
        *("//", "/v2/users", "/v1", "/v1/users/", "/v1/users:nothing", "/docs/", "/healthz/"),
        *(RPC.rpartition("/")[0], f"{RPC}s", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    ],
)
def test_a_path_that_nobody_serves_is_refused(method: str, path: str) -> None:
    assert ask(method, path).status == "404"


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/users"), ("POST", "/v1/users?x"), ("POST", f"{RPC}?x")])
def test_what_is_served_passes(method: str, path: str) -> None:
    assert ask(method, path).status is None


def test_an_rpc_is_asked_for_in_grpc_or_connect() -> None:
    for shape, path, status in (
        (None, RPC, "415"),
        ("unary", RPC, None),
        ("stream", RPC, "415"),
        ("unary", WATCH, "415"),
        ("stream", WATCH, None),
    ):
        metadata = {"ameide.connect": {"shape": shape}} if shape else {}
        asked = {":method": "POST", ":path": path, **BEARER}
        assert PATHS.request(asked, b"", ADA | metadata).status == status


def test_an_rpc_has_one_method() -> None:
    for method in ("GET", "PUT", "DELETE"):
        refused = ask(method, RPC)
        assert (refused.status, refused.allow) == ("405", "POST, OPTIONS")


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/healthz", "/docs?x"])
class TestOpenPath:
    def test_takes_no_body(self, path: str) -> None:
        said = {size: ask("GET", path, size, {}).status for size in (None, "0", "1", "chunked")}
        assert said == {None: None, "0": None, "1": "400", "chunked": "400"}

    def test_takes_one_method(self, path: str) -> None:
        for method in ("POST", "PUT", "OPTIONS"):
            refused = ask(method, path, None, {})
            assert (refused.status, refused.allow) == ("405", "GET, HEAD, OPTIONS")


class TestSize:
    @pytest.mark.parametrize(
        ("size", "counted"),
        [("1", 1), ("1024", 1024), ("99999999999", MAX_BYTES), ("chunked", MAX_BYTES), ("5, 5", MAX_BYTES)],
    )
    def test_that_is_announced_counts_before_the_body_comes(self, size: str, counted: int) -> None:
        passed = ask("POST", "/v1/users", size)
        announced = passed.metadata["ameide.announced"]
        assert (announced["tenant"], announced["principal"], announced["bytes"]) == ("acme", "ada", str(counted))
        assert passed.metadata["ameide.arrived"] is None
        assert "x-ameide-size" not in passed.headers

    def test_that_is_not_counts_when_the_body_is_here(self) -> None:
        passed = ask("POST", RPC)
        arrived = passed.metadata["ameide.arrived"]
        assert (arrived["tenant"], arrived["principal"]) == ("acme", "ada")
        assert passed.metadata["ameide.announced"] is None

    def test_of_nothing_does_not_count(self) -> None:
        metadata = ask("POST", "/v1/users", "0").metadata
        assert metadata["ameide.announced"] is metadata["ameide.arrived"] is None
