"""What an error looks like on the wire, whatever was put into it."""

from typing import Any, get_args

import grpc
import pytest
from api_common.errors import domain as errors
from api_common.errors.details import MAX_DETAILS_BYTES, MAX_VIOLATIONS, render
from api_common.errors.domain import DomainError, FieldViolation, ResourceInfo, ViolationReason
from api_common.errors.registry import REGISTRY, spec_of
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

LONG = "x" * 10_000
REQUEST_ID = "01900000-0000-4000-8000-000000000000"

# Long ones, too, and of characters of up to four bytes.
texts = st.one_of(st.text(max_size=40), st.text(min_size=1, max_size=3).map(lambda text: text * 700))
violations = st.builds(FieldViolation, texts, texts, st.sampled_from(get_args(ViolationReason)))
any_error = st.builds(
    errors.ValidationError,
    texts,
    metadata=st.dictionaries(texts, texts, max_size=40),
    violations=st.one_of(st.lists(violations, max_size=5), violations.map(lambda one: [one] * 300)),
    resource=st.none() | st.builds(ResourceInfo, texts, texts),
    retry_after_seconds=st.none() | st.floats(0, 1e6),
)


def details(error: DomainError) -> tuple[status_pb2.Status, dict[str, Any]]:
    """Returns the status of the trailers, and its details by name."""
    _, _, trailers = render(error, request_id=REQUEST_ID)
    status = status_pb2.Status.FromString(bytes(dict(trailers)["grpc-status-details-bin"]))  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for packed in status.details:
        name = packed.TypeName().rpartition(".")[2]
        detail = getattr(error_details_pb2, name)()
        assert packed.Unpack(detail)
        found[name] = detail
    return status, found


class TestSize:
    @settings(max_examples=50, deadline=None)
    @given(any_error)
    def test_has_a_limit_and_the_reason_always_fits(self, error: DomainError) -> None:
        status, found = details(error)
        assert status.ByteSize() <= MAX_DETAILS_BYTES
        assert found["ErrorInfo"].reason == "INVALID_REQUEST"
        assert found["RequestInfo"].request_id == REQUEST_ID
        assert "BadRequest" in found or not error.violations

    @settings(max_examples=50, deadline=None)
    @given(any_error)
    def test_of_the_message_stays_below_what_a_header_may_hold(self, error: DomainError) -> None:
        """A message travels percent-encoded, up to three characters for each byte."""
        _, message, trailers = render(error, request_id=REQUEST_ID)
        assert 3 * len(message.encode()) <= 2048
        assert all(len(value) <= MAX_DETAILS_BYTES for _, value in trailers)

    def test_of_many_violations_is_cut_and_says_so(self) -> None:
        many = [FieldViolation(f"f{number}", "is required", "REQUIRED") for number in range(500)]
        _, found = details(errors.ValidationError("Malformed.", violations=many))
        listed = found["BadRequest"].field_violations
        assert [one.field for one in listed] == [*(f"f{number}" for number in range(MAX_VIOLATIONS)), "*"]
        assert listed[-1].description == f"and {500 - MAX_VIOLATIONS} more"
        assert listed[-1].reason == "MORE"
        assert dict(found["ErrorInfo"].metadata) == {"truncated": "true"}

    @pytest.mark.parametrize(
        "facts",
        [
            {"violations": [FieldViolation("f", LONG, "UNKNOWN")]},
            {"violations": [FieldViolation(LONG, "x", "UNKNOWN")]},
            {"violations": [FieldViolation("f" * 200, "x" * 200, "UNKNOWN")] * 20},
            {"resource": ResourceInfo("user", LONG)},
            {"resource": ResourceInfo("u" * 65, "x")},
            {"metadata": {"value": LONG}},
            {"metadata": {LONG: "value"}},
            {"metadata": {f"k{number}": "x" * 100 for number in range(20)}},
        ],
    )
    def test_of_anything_long_is_cut_and_says_so(self, facts: dict[str, Any]) -> None:
        status, found = details(errors.ValidationError("Malformed.", **facts))
        assert status.ByteSize() <= MAX_DETAILS_BYTES
        assert found["ErrorInfo"].metadata["truncated"] == "true"

    def test_of_a_long_message_is_cut_and_says_so(self) -> None:
        status, found = details(errors.ValidationError(LONG))
        assert status.message.endswith("…")
        assert found["ErrorInfo"].metadata["truncated"] == "true"

    def test_of_what_fits_is_not_mentioned(self) -> None:
        violations = [FieldViolation("f", "is required", "REQUIRED")] * MAX_VIOLATIONS
        error = errors.ValidationError("Malformed.", violations=violations, resource=ResourceInfo("user", "u1"))
        _, found = details(error)
        assert len(found["BadRequest"].field_violations) == MAX_VIOLATIONS
        assert dict(found["ErrorInfo"].metadata) == {}


class TestFieldNames:
    @pytest.mark.parametrize(
        ("proto", "json"),
        [
            ("user.display_name", "user.displayName"),
            ("requests[3].service_account.expire_time", "requests[3].serviceAccount.expireTime"),
            ("user.labels[a_b]", "user.labels[a_b]"),
            ("agent.tool_list[a_b].input_schema", "agent.toolList[a_b].inputSchema"),
            ("user.labels[a_b.c_d", "user.labels[a_b.c_d"),
            ("if-match", "if-match"),
            ("*", "*"),
            ("", ""),
        ],
    )
    def test_are_those_of_json_for_callers_of_json(self, proto: str, json: str) -> None:
        error = errors.ValidationError(violations=[FieldViolation(proto, "x", "UNKNOWN")])
        for json_names, expected in ((False, proto), (True, json)):
            _, _, trailers = render(error, request_id=REQUEST_ID, json_names=json_names)
            status = status_pb2.Status.FromString(bytes(dict(trailers)["grpc-status-details-bin"]))  # type: ignore[arg-type]
            found = error_details_pb2.BadRequest()
            assert status.details[-1].Unpack(found)
            assert found.field_violations[0].field == expected


class TestDetails:
    def test_say_everything_that_the_error_knows(self) -> None:
        error = errors.RateLimitError(
            "Too many requests.",
            metadata={"limit": "10"},
            violations=[FieldViolation("user.email", "must be an address", "INVALID_FORMAT")],
            resource=ResourceInfo("user", "u1"),
            retry_after_seconds=1.5,
        )
        status, found = details(error)
        assert (status.code, status.message) == (8, "Too many requests. user.email must be an address.")
        assert list(found) == ["ErrorInfo", "RequestInfo", "RetryInfo", "ResourceInfo", "BadRequest"]
        assert (found["ErrorInfo"].domain, dict(found["ErrorInfo"].metadata)) == ("ameide.dev", {"limit": "10"})
        assert found["RetryInfo"].retry_delay.ToMilliseconds() == 1500
        assert (found["ResourceInfo"].resource_type, found["ResourceInfo"].resource_name) == ("user", "u1")
        assert found["BadRequest"].field_violations[0].field == "user.email"
        assert found["BadRequest"].field_violations[0].reason == "INVALID_FORMAT"

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (["a"], "It is malformed. a is required."),
            (["a", "b", "c"], "It is malformed. a is required; b is required; c is required."),
            (["a", "b", "c", "d", "e"], "It is malformed. a is required; b is required; c is required; and 2 more."),
        ],
    )
    def test_are_in_the_message_if_they_are_few(self, names: list[str], said: str) -> None:
        wrong = [FieldViolation(name, "is required", "REQUIRED") for name in names]
        status, _ = details(errors.ValidationError("It is malformed.", violations=wrong))
        assert status.message == said

    def test_say_nothing_else(self) -> None:
        _, found = details(errors.NotFoundError("There is no such user."))
        assert list(found) == ["ErrorInfo", "RequestInfo"]

    def test_come_with_trailers_for_simple_clients(self) -> None:
        code, _, trailers = render(errors.ExternalServiceError("x", retry_after_seconds=0.2), request_id=REQUEST_ID)
        plain = {key: value for key, value in trailers if not key.endswith("-bin")}
        assert code is grpc.StatusCode.UNAVAILABLE
        assert plain == {"error-type": "UNAVAILABLE", "error-id": REQUEST_ID, "retry-after": "1"}


class TestRegistry:
    @pytest.mark.parametrize("spec", REGISTRY, ids=lambda spec: spec.error.__name__)
    def test_gives_every_error_its_code(self, spec: Any) -> None:
        code, _, trailers = render(spec.error("Something."), request_id=REQUEST_ID)
        assert (code, dict(trailers)["error-type"]) == (spec.code, spec.error.reason)

    def test_gives_derived_errors_the_code_of_their_base_and_their_own_reason(self) -> None:
        class OddError(errors.EtagMismatchError):
            """Two levels below a row."""

            reason = "ODD"

        assert spec_of(OddError("x")).code is grpc.StatusCode.ABORTED
        assert dict(render(OddError("x"), request_id=REQUEST_ID)[2])["error-type"] == "ODD"
