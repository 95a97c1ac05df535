"""Draws the tables of a run (`make bench ARGS="--plots DIR"`) and of docs/performance.md (`make bench-plots`).

A table of the page gets a picture if a column of it has figures only, or nothing. Each such column becomes a panel of
bars. The texts of a picture stay texts, in the colour that the reader's page has for them.
"""

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.goals import GOALS
from bench.rounds import Cell
from tools.topology import ROOT

if TYPE_CHECKING:
    import matplotlib as mpl

PAGE: Final = ROOT / "docs" / "performance.md"
FOLDER: Final = PAGE.with_suffix("")

_OURS, _OTHERS = "#e07b2a", "#5b8fc9"
"""Both can be told from white and from black, and from each other without colours."""
_STYLE: Final = "<style>text { fill: #1f2328 } @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }</style>"
_FIGURE: Final = re.compile(r"(?P<value>[\d,]+(?:\.\d+)?)(?: \((?P<low>[\d.]+) – (?P<high>[\d.]+)\))?")
_IS_OURS: Final = re.compile("(the edge before )?ours")
_PARTS: Final = {"process": "cpu_us", "edge": "edge_us", "Postgres": "postgres_us", "all": "whole_us"}
_COLUMNS: Final = 4
"""Panels beside each other."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure as it is written, and its interval."""

    text: str
    value: float
    low: float
    high: float


Panels = Mapping[str, Mapping[str, Bar]]
"""The columns of a table by their headings: the figures of their rows, by the names of the rows."""


def tables(page: str) -> Mapping[str, Panels]:
    """Returns the tables that get a picture, by the heading that they stand under; the first one of each."""
    found: dict[str, Panels] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            if heading not in found and (panels := _panels(lines)):
                found[heading] = panels
    return found


def _panels(lines: str) -> Panels:
    header, _, *rows = ([_plain(cell) for cell in line.strip("|").split("|")] for line in lines.splitlines())
    panels = {}
    for place, name in enumerate(header[1:], 1):
        cells = {row[0]: row[place] for row in rows if row[place]}
        bars = {row: bar for row, cell in cells.items() if (bar := bar_of(cell))}
        if len(bars) == len(cells) > 1:
            panels[name] = bars
    return panels


def _plain(cell: str) -> str:
    """Returns the text of a cell without marks, and without what explains it in parentheses behind a name."""
    text = cell.replace("*", "").replace("`", "").strip()
    return re.sub(r"(?<=[A-Za-z]) \(.*\)", "", text)


def bar_of(text: str) -> Bar | None:
    """Returns the figure of a cell; None if it holds something else."""
    found = _FIGURE.fullmatch(text)
    if not found:
        return None
    value = float(found["value"].replace(",", ""))
    return Bar(text, value, float(found["low"] or value), float(found["high"] or value))


def of_work(work: str, cells: Sequence[Cell]) -> Panels:
    """Returns what a call cost in a run: the medians, in µs of CPU time."""
    own = [cell for cell in cells if cell.work == work]
    panels: dict[str, dict[str, Bar]] = {}
    for title, column in _PARTS.items():
        for name in dict.fromkeys(cell.contender for cell in own):
            value = statistics.median(getattr(cell, column) for cell in own if cell.contender == name)
            panels.setdefault(title, {})[name] = Bar(f"{value:,.0f}", value, value, value)
    return panels


def of_goals(cells: Sequence[Cell]) -> Panels:
    """Returns the ratios of a run that have a goal."""
    ratios = {f"{one.text} {one.sign} {one.limit}": one.measure(cells) for one in GOALS}
    return {"ratio": {name: Bar(f"{of.median:.2f}", of.median, of.low, of.high) for name, of in ratios.items() if of}}


def write_run(folder: Path, works: Sequence[str], cells: Sequence[Cell]) -> None:
    """Writes a picture for the table of each work, and one for the goals."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {work: of_work(work, cells) for work in works} | {"goals": of_goals(cells)}
    for name, panels in pictures.items():
        if any(panels.values()):
            (folder / name_of(name)).write_text(draw(panels))


def draw(panels: Panels) -> str:
    """Returns a picture of ``panels``, as SVG; the same panels make the same picture."""
    # Here, because who draws nothing imports this module, too.
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for bars in panels.values() for name in bars))
    across = min(_COLUMNS, len(panels))
    down = -(-len(panels) // across)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 8}):
        figure = Figure(figsize=(2.4 * across + 1.6, down * (0.2 * len(names) + 0.45)), layout="constrained")
        FigureCanvasSVG(figure)
        all_axes = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, bars) in zip(all_axes, panels.items(), strict=False):
            _draw_panel(axes, title, bars, names)
        target = StringIO()
        figure.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return re.sub(r"(<svg [^>]*>)", rf"\1{_STYLE}", target.getvalue(), count=1)


def _draw_panel(axes: "mpl.axes.Axes", title: str, bars: Mapping[str, Bar], names: Sequence[str]) -> None:
    axes.set_title(title, fontsize=8, fontweight="bold", loc="left")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    most = max(bar.high for bar in bars.values())
    axes.set_xlim(0, most * 1.6)
    for name, bar in bars.items():
        place = names.index(name)
        errors = [[bar.value - bar.low], [bar.high - bar.value]] if bar.low < bar.high else None
        colour = _OURS if _IS_OURS.match(name) else _OTHERS
        axes.barh(place, bar.value, 0.7, color=colour, xerr=errors, ecolor="#808080")
        axes.text(bar.high + most * 0.03, place, bar.text.partition(" (")[0], va="center")


def name_of(heading: str) -> str:
    """Returns the name of a picture's file."""
    return f"{re.sub('[^a-z0-9]+', '-', heading.lower())}.svg"


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for heading, panels in tables(PAGE.read_text()).items():
        (FOLDER / name_of(heading)).write_text(draw(panels))
        print(FOLDER / name_of(heading))


if __name__ == "__main__":
    main()
