"""The measurement still runs; what it measures is for docs/security.md to say, never for a test."""

from bench.wrong_key import BASE, RIGHT, measure


def test_measures_every_kind_of_key_and_checks_each_answer() -> None:
    times = measure(1)
    assert {BASE, RIGHT, "garbled", "revoked", "with another secret"} < set(times)
    assert {len(own) for own in times.values()} == {1}
