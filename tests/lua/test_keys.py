"""`keys.lua`: wrong API keys of one address are not asked about for ever."""

from typing import Final

from tests.lua.filters import Filter

LIMIT: Final = 50


def show_key(keys: Filter, address: str, answer: dict[str, str] | None = None) -> str | None:
    """Shows an API key from ``address``; unless the filter refuses it, the edge answers with ``answer``."""
    asked = keys.request({"x-api-key": "k"}, metadata={"address": address})
    if asked.status is None and answer is not None:
        keys.response(answer, asked.metadata)
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


def test_good_ones_and_requests_without_a_key_count_for_nothing() -> None:
    keys = Filter("keys")
    assert show_until_refused(keys, {":status": "200"}, 3 * LIMIT) == 3 * LIMIT
    for _ in range(3 * LIMIT):
        keys.response({":status": "401"})
    assert show_key(keys, "192.0.2.1:4711") is None
