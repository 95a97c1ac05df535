"""The table of `make attack`, and what makes it fail."""

import re
from collections import Counter
from typing import Any

import pytest

from bench.attack.attacker import Attacker, Cost, Target
from bench.attack.catalog import ATTACKS
from bench.attack.polite import Call, failures, p99
from bench.attack.run import QUIET_SECONDS, chosen
from bench.attack.samples import NAMES, Sample, Usage, ended, unready, usage
from bench.attack.table import Row, header, objections


def a_row(**fields: Any) -> Row:
    """Returns a row of an attack that nobody noticed."""
    used = dict.fromkeys(NAMES, Usage(100, 1.5))
    cost = Cost(sent=12_345_678, calls=900, answers=Counter({"grpc 3": 800, "404": 90, "closed": 9, "none": 1}))
    calm: dict[str, Any] = {"failures": Counter(), "before": 10.0, "during": 29.0, "after": 11.0, "processes": used}
    return Row(**{"name": "rapid reset", "cost": cost, "unready": 0, "ended": (), **calm, **fields})


class TestObjections:
    def test_are_none_if_nobody_noticed(self) -> None:
        assert objections([a_row(), a_row(during=30.0)]) == []

    @pytest.mark.parametrize(
        ("fields", "objection"),
        [
            ({"failures": Counter({"get users: 503": 2})}, "2 calls of the polite tenant failed: 2 × get users: 503."),
            ({"during": 30.1}, "p99 rose from 10 to 30 ms, 3.0 times."),
            ({"after": 50.0}, "p99 rose from 10 to 50 ms, 5.0 times."),
            ({"unready": 1}, "readiness did not answer 1 times."),
            ({"ended": ("users",)}, "users ended."),
            ({"cost": Cost()}, "the attacker sent nothing ({})."),
        ],
    )
    def test_name_what_was_noticed(self, fields: dict[str, Any], objection: str) -> None:
        assert objections([a_row(**fields)]) == [f"rapid reset: {objection}"]

    def test_do_not_excuse_an_attack_after_a_bad_one(self) -> None:
        """The quiet time before an attack may suffer from the attack before it."""
        rows = [a_row(), a_row(name="next", before=1000.0, during=1000.0)]
        assert objections(rows) == ["next: p99 rose from 10 to 1000 ms, 100.0 times."]


class TestTable:
    def test_has_a_figure_under_each_heading(self) -> None:
        row = str(a_row())
        figures = ["rapid reset", "12 MB", "900", "0", "10", "29", "11", "0", *["100", "1.5"] * len(NAMES)]
        assert re.split(r"  +", row) == [*figures, "800 × grpc 3, 90 × 404, 9 × closed"]
        second = header().splitlines()[1]
        assert second.index("answers") == row.index("800 ×")
        for heading, figure in (("calls", " 900"), ("during", " 29"), ("after", " 11")):
            assert second.index(heading) + len(heading) == row.index(figure) + len(figure)


class TestPolite:
    def test_counts_the_99th_of_a_hundred_calls(self) -> None:
        calls = [Call(0, float(number), "") for number in range(1, 101)]
        assert (p99(calls), p99(calls[:1]), p99([])) == (99.0, 1.0, 0.0)

    def test_counts_failures_by_cause(self) -> None:
        assert failures([Call(0, 1, ""), Call(0, 1, "get users: 503")]) == {"get users: 503": 1}


class TestSamples:
    def test_show_peak_and_difference(self) -> None:
        before = Sample(0, {"users": 2**20}, {"users": 5.0}, {"users": 7})
        peak = Sample(1, {"users": 3 * 2**20}, {"users": 5.5}, {"users": 7}, unready=("users", "edge"))
        after = Sample(2, {"users": 2 * 2**20}, {"users": 7.0}, {"users": 8})
        assert usage([before, peak, after])["users"] == Usage(3, 2.0)
        assert unready([before, peak, after]) == 2
        assert ended([before, peak, after]) == ["users"]
        assert ended([before, peak]) == []


class TestAttacks:
    def test_go_to_this_machine_only(self) -> None:
        with pytest.raises(ValueError, match=r"not to 192\.0\.2\.1"):
            Target("192.0.2.1", 80, "")

    async def test_end_by_count_and_by_time(self) -> None:
        attacker = Attacker(Target("127.0.0.1", 80, ""), seconds=60)
        assert [number async for number in attacker.paced(3, rate=1e6)] == [0, 1, 2]
        late = Attacker(Target("127.0.0.1", 80, ""), seconds=0)
        assert [number async for number in late.paced(3, rate=1e6)] == []

    def test_can_be_chosen_by_parts_of_their_names(self) -> None:
        assert [one.name for one in chosen("RAPID; hpack")] == ["rapid reset", "HPACK bombs"]
        assert len(chosen("")) == len(ATTACKS)
        assert chosen("nothing like it") == []

    def test_fit_into_ten_minutes(self) -> None:
        """With the quiet time after each, and three seconds to start the attacker."""
        assert sum(one.seconds + QUIET_SECONDS + 3 for one in ATTACKS.values()) < 600
