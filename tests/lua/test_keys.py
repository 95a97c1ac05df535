"""`keys.lua`: wrong API keys of one address are not asked about for ever."""

from typing import Any, Final

import pytest

from tests.lua.filters import Filter

LIMIT: Final = 50
VERIFIED: Final[dict[str, Any]] = {"envoy.filters.http.jwt_authn": {"payload": "claims"}}
"""What the filter after it says of a key that worked."""
GOOD: Final = {":status": "200"}


def show_key(keys: Filter, address: str, answer: dict[str, str] | None = None, key: str = "k") -> str | None:
    """Shows an API key from ``address``; unless the filter refuses it, the edge answers with ``answer``."""
    asked = keys.request({"x-api-key": key}, metadata={"address": address})
    if asked.status is None and answer is not None:
        verified = VERIFIED if answer == GOOD else {}
        keys.response(answer, {**dict(asked.metadata), **verified})
    return asked.status


def show_until_refused(keys: Filter, answer: dict[str, str], times: int) -> int:
    """Returns how many keys of one address passed; more than one second may begin meanwhile."""
    return [show_key(keys, "192.0.2.1:4711", answer) for _ in range(times)].count(None)


def test_fifty_wrong_ones_a_second_are_asked_about() -> None:
    for answer in ({":status": "401"}, {":status": "200", "grpc-status": "16"}):
        assert LIMIT <= show_until_refused(Filter("keys"), answer, 10 * LIMIT) <= 3 * LIMIT


def test_ports_are_not_addresses_and_addresses_are_apart() -> None:
    keys = Filter("keys")
    shown = [show_key(keys, f"192.0.2.1:{port}", {":status": "401"}) for port in range(1000, 1000 + 4 * LIMIT)]
    assert "429" in shown
    assert show_key(keys, "192.0.2.2:4711", {":status": "401"}) is None
    assert show_key(keys, "[2001:db8::1]:4711", {":status": "401"}) is None


def test_those_that_are_not_answered_yet_count() -> None:
    """Or a thousand at once would all be asked about, and the service would answer nobody else meanwhile."""
    keys = Filter("keys")
    assert LIMIT <= [show_key(keys, "192.0.2.1:4711") for _ in range(10 * LIMIT)].count(None) <= 3 * LIMIT


def test_those_that_have_worked_pass_whoever_else_is_behind_the_address() -> None:
    keys = Filter("keys")
    assert show_key(keys, "192.0.2.1:1", GOOD, key="good") is None
    for _ in range(3):
        assert "429" in [show_key(keys, "192.0.2.1:2") for _ in range(3 * LIMIT)]
        assert show_key(keys, "192.0.2.1:1", GOOD, key="good") is None
    # Until it is refused.
    show_key(keys, "192.0.2.1:1", {":status": "401"}, key="good")
    assert "429" in [show_key(keys, "192.0.2.1:1", key="good") for _ in range(3 * LIMIT)]


@pytest.mark.parametrize("answer", [{":status": "400"}, {":status": "429"}, {":status": "503"}], ids=str)
def test_an_answer_before_the_key_was_asked_about_is_no_proof(answer: dict[str, str]) -> None:
    assert LIMIT <= show_until_refused(Filter("keys"), answer, 10 * LIMIT) <= 3 * LIMIT


def test_only_some_are_remembered() -> None:
    keys = Filter("keys")
    for number in range(2001):
        assert show_key(keys, "192.0.2.1:1", GOOD, key=f"good-{number}") is None
    odd = ("x" * 201, "", "\xff\xfe")
    for key in odd:
        assert show_key(keys, "192.0.2.1:1", GOOD, key=key) is None
    for forgotten in ("good-0", *odd):
        assert "429" in [show_key(keys, "192.0.2.1:1", key=forgotten) for _ in range(3 * LIMIT)], forgotten
    assert show_key(keys, "192.0.2.1:1", key="good-2000") is None


def test_good_ones_and_requests_without_a_key_count_for_nothing() -> None:
    keys = Filter("keys")
    assert show_until_refused(keys, GOOD, 3 * LIMIT) == 3 * LIMIT
    for _ in range(3 * LIMIT):
        keys.response({":status": "401"})
    assert show_key(keys, "192.0.2.1:4711") is None
