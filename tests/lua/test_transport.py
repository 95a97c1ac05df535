"""What `transport.lua` makes of the headers of a request; tests/e2e/test_hostile_headers.py asks a real mesh."""

import pytest
from api_common.call import CLIENT_HEADERS

from tests.lua.filters import Filter, Passed, Transport

TRANSPORT = Transport()
REST = {":method": "GET", ":path": "/v1/me", ":scheme": "http", ":authority": "x"}
GRPC = REST | {":method": "POST", ":path": "/ameide.user.v1.UserService/GetMe", "content-type": "application/grpc"}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def of(good: dict[str, str], **changed: str | None) -> Passed:
    given = good | {name.replace("_", "-"): value for name, value in changed.items() if value is not None}
    return TRANSPORT.request(given)


class TestHeader:
    def test_that_services_read_passes(self) -> None:
        forms = {"traceparent": TRACE, "if-none-match": '"x"', "cache-control": "max-age=5"}
        said = dict.fromkeys(CLIENT_HEADERS, "x") | forms
        for good in (REST, GRPC):
            assert said.items() <= TRANSPORT.request(good | said).headers.items()

    @pytest.mark.parametrize(
        "name",
        [
            *("cookie", "host", "forwarded", "x-real-ip", "x-forwarded-host", "x-tenant-id", "x-user-id"),
            *("any-bin", "grpc-tags-bin", "grpc-trace-bin", "grpc-previous-rpc-attempts", "grpc-retry-pushback-ms"),
            *("grpc-status", "grpc-message", "lb-token", "grpc-internal-encoding-request", "x-b3-traceid", "baggage"),
            *("grpc-encoding", "grpc-accept-encoding", "connect-protocol-version", "x!y", "x-envoy-retry-on"),
        ],
    )
    def test_that_nobody_reads_is_removed(self, name: str) -> None:
        assert TRANSPORT.request(REST | {name: "gzip"}).headers == REST

    @pytest.mark.parametrize("good", [REST, GRPC], ids=["REST", "gRPC"])
    @pytest.mark.parametrize(
        ("value", "passes"),
        [
            *((value, True) for value in ("1n", "0S", "99999999H", "30S", "5000m", "7u", "2M")),
            *(
                (value, False)
                for value in ("", "S", "1", "xx", "123456789S", "-1S", "1.5S", "1s", "1S,1S", " 1S", "1S ")
            ),
        ],
    )
    def test_of_a_deadline_has_the_form_of_grpc(self, good: dict[str, str], value: str, passes: bool) -> None:
        assert ("grpc-timeout" in of(good, grpc_timeout=value).headers) is passes

    @pytest.mark.parametrize(
        "value", ["", "00", TRACE.upper(), TRACE + "-x", TRACE.replace("-", "x"), "ff" + TRACE[2:]]
    )
    def test_of_a_trace_has_the_form_of_w3c(self, value: str) -> None:
        assert "traceparent" not in of(REST, traceparent=value).headers

    def test_of_compression_passes_for_grpc_and_says_something(self) -> None:
        assert of(GRPC, grpc_encoding="zstd").headers["grpc-encoding"] == "zstd"
        assert "grpc-encoding" not in of(GRPC, grpc_encoding="").headers
        assert of(GRPC, grpc_accept_encoding="identity, gzip").headers["grpc-accept-encoding"] == "identity, gzip"
        assert "grpc-accept-encoding" not in of(GRPC, grpc_accept_encoding="\xe4").headers

    def test_of_a_program_is_short_and_readable(self) -> None:
        assert of(REST, user_agent="a\tb\xe4\x00c").headers["user-agent"] == "a?b??c"
        assert of(REST, user_agent="a" * 300).headers["user-agent"] == "a" * 256

    def test_is_not_touched_if_there_are_too_many(self) -> None:
        passed = of(GRPC, cookie="x" * 16384, grpc_timeout="xx")
        assert passed.metadata["transport"]["too_large"]


class TestCacheControl:
    @pytest.mark.parametrize(
        ("said", "passed"),
        [
            *((value, value) for value in ("max-age=0", "max-age=5", "max-age=30")),
            *((value, "max-age=30") for value in ("max-age=31", "max-age=2147483648", "max-age=" + "9" * 4000)),
            *((value, "max-age=7") for value in ("Max-Age=7", "max-age=007", 'max-age="7"', "  max-age=7\t")),
            *(
                (value, "max-age=7")
                for value in ("no-transform, max-age=7", "max-age=7,max-stale=9, x=y,,only-if-cached")
            ),
        ],
    )
    def test_has_one_form_of_an_age_for_services(self, said: str, passed: str) -> None:
        for good in (REST, GRPC):
            assert of(good, cache_control=said).headers["cache-control"] == passed

    @pytest.mark.parametrize(
        "said",
        [
            *("", ",", "max-age", "max-age=", "max-age=x", "max-age=-1", "max-age=1.5", "max-age=1e1", "max-age=5s"),
            *("max-age =5", "max-age= 5", "max-age=5 6", "max-age=0x5", "max-age=5;x", "max-age=\xb2", "xmax-age=5"),
            *("no-cache", "no-store", "no-cache, max-age=5", "max-age=5, no-store", "max-age=5, min-fresh=1"),
            *("max-age=5, max-age=5", "max-age=5,max-age=x", 'x="a, max-age=5', 'x="a, max-age=5, b"', "max-age='5'"),
            *(
                'no-cache="x", max-age=5',
                'max-age="5',
                'x="max-age="5",',
                "max-age=5, NO-CACHE",
                "public",
                "max-stale=5",
            ),
        ],
    )
    def test_that_is_not_clear_asks_for_a_current_answer(self, said: str) -> None:
        for good in (REST, GRPC):
            assert "cache-control" not in of(good, cache_control=said).headers

    def test_that_is_long_costs_little(self) -> None:
        assert of(REST, cache_control=" " * 8000 + "max-age=5").headers["cache-control"] == "max-age=5"
        assert "cache-control" not in of(REST, cache_control="max-age=5," * 1500).headers


class TestMediaType:
    @pytest.mark.parametrize(
        ("said", "passed"),
        [
            ("application/grpc", "application/grpc"),
            ("Application/GRPC", "application/grpc"),
            ("application/grpc+proto", "application/grpc"),
            ("application/grpc;charset=utf-8", "application/grpc"),
            ("application/grpc ; a=b", "application/grpc"),
            ("APPLICATION/gRPC-Web+Proto; x=y", "application/grpc-web"),
            ("application/grpc-web-TEXT", "application/grpc-web-text"),
            ("application/grpc+json", "application/grpc+json"),
            ("application/grpcx", "application/grpcx"),
            ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        ],
    )
    def test_of_grpc_has_one_spelling(self, said: str, passed: str) -> None:
        assert of(GRPC, content_type=said).headers["content-type"] == passed

    def test_of_grpc_brings_the_trailers_that_grpc_asks_for(self) -> None:
        assert of(GRPC).headers["te"] == of(GRPC, te="gzip").headers["te"] == "trailers"
        assert "te" not in of(GRPC, content_type="application/grpc-web").headers


class TestOptions:
    @pytest.mark.parametrize(
        ("path", "status", "allow"),
        [
            ("/v1/users", "204", "GET, HEAD, POST, OPTIONS"),
            ("/v1/users/x:suspend?y", "204", "POST, OPTIONS"),
            ("/v1/users:watch", "204", "GET, OPTIONS"),
            ("/docs", "204", "GET, HEAD, OPTIONS"),
            (GRPC[":path"], "204", "POST, OPTIONS"),
            ("*", "204", None),
            ("/v1/nothing", "404", None),
            ("/v1/" + ":/" * 8000, "404", None),
        ],
    )
    def test_tells_the_methods(self, path: str, status: str, allow: str | None) -> None:
        answer = TRANSPORT.request(REST | {":method": "OPTIONS", ":path": path})
        assert (answer.status, answer.allow) == (status, allow)

    def test_is_no_question_of_grpc(self) -> None:
        assert TRANSPORT.request(GRPC | {":method": "OPTIONS"}).status == "405"


def test_that_fails_lets_nothing_pass() -> None:
    """Envoy would pass the request on."""
    uncounted = Filter("transport")
    with pytest.raises(Exception, match="number"):
        uncounted.request(REST)
