"""The goals that `make bench` prints: ratios of one run."""

import pytest

from bench.contenders import EDGE_H1, FLOOR_H1, NAMES, OURS, TUNED_INGRESS
from bench.goals import GOALS, Goal, print_goals
from bench.rounds import Cell
from bench.work import PLANS

GET = "GetUser"


def a_cell(contender: str, *, cpu: float, edge: float = 0, postgres: float = 0, number: int = 0) -> Cell:
    return Cell(number, GET, contender, cpu, edge, postgres, 1, 1, 1)


def the_goal(*, of: str, to: str, column: str) -> Goal:
    (found,) = (one for one in GOALS if (one.of, one.to, one.column) == ((of, GET), (to, GET), column))
    return found


CELLS = [
    a_cell(OURS, cpu=500, postgres=100),
    a_cell(EDGE_H1, cpu=600, edge=300, postgres=100),
    a_cell(FLOOR_H1, cpu=550, edge=150, postgres=100),
    a_cell(TUNED_INGRESS, cpu=1800, edge=100, postgres=100),
]


class TestGoals:
    def test_name_contenders_and_works_that_exist(self) -> None:
        for goal in GOALS:
            assert {goal.of[0], goal.to[0]} <= set(NAMES), goal.text
            assert {goal.of[1], goal.to[1]} <= set(PLANS), goal.text
        assert len({goal.text for goal in GOALS}) == len(GOALS)

    @pytest.mark.parametrize(
        ("of", "to", "column", "ratio"),
        [
            (EDGE_H1, TUNED_INGRESS, "whole_us", 0.5),
            (EDGE_H1, OURS, "cpu_us", 1.2),
            (EDGE_H1, FLOOR_H1, "edge_us", 2),
        ],
    )
    def test_are_ratios_of_what_they_name(self, of: str, to: str, column: str, ratio: float) -> None:
        figure = the_goal(of=of, to=to, column=column).measure(CELLS)
        assert figure
        assert (figure.median, figure.low, figure.high) == (ratio, ratio, ratio)

    def test_compare_round_by_round(self) -> None:
        rounds = [
            a_cell(name, cpu=cpu * slow, number=number)
            for number, slow in enumerate((1, 7, 3))
            for name, cpu in ((EDGE_H1, 550), (OURS, 500))
        ]
        figure = the_goal(of=EDGE_H1, to=OURS, column="cpu_us").measure(rounds)
        assert figure
        assert figure.high - figure.low < 0.001 < figure.median - 1 < 0.11

    def test_fail_a_run_only_when_missed_by_more_than_noise(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert not print_goals(CELLS)
        printed = capsys.readouterr().out.splitlines()
        words = {
            goal: line.split()[-1] for line in printed for goal in ("REST / FastAPI", "called directly") if goal in line
        }
        assert words == {"REST / FastAPI": "reached", "called directly": "MISSED"}
        noisy = [a_cell(EDGE_H1, cpu=cpu, number=number) for number, cpu in enumerate((500, 560, 600))]
        assert print_goals([*noisy, *(a_cell(OURS, cpu=500, number=number) for number in range(3))])
        assert "missed within noise" in capsys.readouterr().out
