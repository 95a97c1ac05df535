"""The identity of a request, from whatever a client sends."""

import re
import uuid

import pytest
from api_common.call.headers import RequestHeaders
from hypothesis import given
from hypothesis import strategies as st

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_what_is_well_formed_is_kept() -> None:
    request_id = str(uuid.uuid4())
    headers = RequestHeaders.read([("x-request-id", request_id), ("traceparent", GOOD)])
    trace = headers.trace
    assert (headers.request_id, trace.trace_id, trace.parent_id, trace.sampled) == (request_id, TRACE, PARENT, True)


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "x",
        GOOD.upper(),
        f"01-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GOOD}-extra",
        f"{GOOD}\n",
        GOOD.replace("-", "_"),
    ],
)
def test_a_malformed_trace_context_is_replaced(sent: str) -> None:
    headers = RequestHeaders.read([("traceparent", sent)])
    assert re.fullmatch("[0-9a-f]{32}", headers.trace.trace_id)
    assert headers.trace.trace_id != TRACE
    assert (headers.trace.parent_id, headers.trace.sampled) == ("", False), "a trace that we start is not sampled"


def test_ids_are_new_for_each_request() -> None:
    made = [RequestHeaders.read([]) for _ in range(100)]
    assert len({headers.request_id for headers in made}) == len({headers.trace.trace_id for headers in made}) == 100
    assert all(UUID.fullmatch(headers.request_id) for headers in made)


def test_every_credential_and_key_is_kept_so_that_none_is_chosen() -> None:
    headers = RequestHeaders.read([("authorization", "a"), ("idempotency-key", "k"), ("authorization", "b")])
    assert (headers.authorization, headers.idempotency_key) == (("a", "b"), ("k",))


def test_binary_values_and_other_names_mean_nothing() -> None:
    headers = RequestHeaders.read([("authorization", b"Bearer x"), ("Authorization", "x"), ("x-authorization", "x")])
    assert headers.authorization == ()


@given(st.lists(st.tuples(st.sampled_from(["x-request-id", "traceparent", "other"]), st.text() | st.binary())))
def test_nothing_makes_it_fail(metadata: list[tuple[str, str | bytes]]) -> None:
    headers = RequestHeaders.read(metadata)
    assert re.fullmatch(r"[0-9a-fA-F-]{36}", headers.request_id)
    assert re.fullmatch("[0-9a-f]{32}", headers.trace.trace_id)
