"""The pictures of docs/performance.md and of `make bench`."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.contenders import EDGE_H1, NAMES
from bench.plots import FOLDER, PAGE, Bar, Panels, bar_of, draw, name_of, tables, write_run
from bench.rounds import Cell

SVG = "{http://www.w3.org/2000/svg}"
TABLES = tables(PAGE.read_text())


def texts(svg: str) -> Sequence[str]:
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter(f"{SVG}text")]


def written(panels: Panels) -> set[str]:
    """Returns what a picture of ``panels`` must say."""
    figures = {bar.text.partition(" (")[0] for bars in panels.values() for bar in bars.values()}
    return {*panels, *(name for bars in panels.values() for name in bars), *figures}


PANELS: Panels = {"GetUser": {"ours": Bar("2 (1 – 3)", 2, 1, 3), "<others> & more": Bar("4", 4, 4, 4)}}


class TestThePage:
    def test_has_tables_of_figures(self) -> None:
        assert {"Figures", "Where the CPU goes", "The budget"} <= set(TABLES)
        assert TABLES["Figures"]["GetUser"]["ours"].value > 0

    @pytest.mark.parametrize("heading", TABLES)
    def test_shows_the_picture_of_each_table_of_figures(self, heading: str) -> None:
        shown = re.search(rf"!\[(.{{20,}})\]\({FOLDER.name}/{name_of(heading)}\)", PAGE.read_text())
        assert shown, f"{heading} shows no picture with a text for who cannot see it"
        said = set(texts((FOLDER / name_of(heading)).read_text()))
        assert said == written(TABLES[heading]), "`make bench-plots` draws it again"


class TestARun:
    def test_is_drawn_with_every_contender(self, tmp_path: Path) -> None:
        cells = [Cell(0, "ListUsers 50", name, 1000 + place, 20, 3, 1, 1, 1) for place, name in enumerate(NAMES)]
        write_run(tmp_path, ["ListUsers 50"], cells)
        said = texts((tmp_path / "listusers-50.svg").read_text())
        assert {*NAMES, "process", "edge", "Postgres", "all", "1,000", "1,023"} <= set(said)
        ratios = texts((tmp_path / "goals.svg").read_text())
        (goal,) = (one for one in ratios if one.startswith("ListUsers 50, whole path: REST"))
        assert goal.endswith("≤ 1")
        assert f"{(1023 + NAMES.index(EDGE_H1)) / (1023 + NAMES.index('FastAPI, tuned, Envoy')):.2f}" in ratios


class TestDraw:
    def test_says_what_it_shows_and_is_the_same_each_time(self) -> None:
        svg = draw(PANELS)
        assert set(texts(svg)) == {"GetUser", "ours", "<others> & more", "2", "4"}
        assert draw(PANELS) == svg

    def test_can_be_read_on_white_and_on_black(self) -> None:
        svg = draw(PANELS)
        assert re.search(r"prefers-color-scheme: dark\) \{ text \{ fill", svg)
        # A colour of its own would win over the page's.
        assert not [style for style in re.findall(r'<text[^>]*style="([^"]*)"', svg) if "fill" in style]

    @pytest.mark.parametrize("text", ["", "2 ms", "missed", "764 – 817"])
    def test_a_text_is_no_figure(self, text: str) -> None:
        assert bar_of(text) is None
