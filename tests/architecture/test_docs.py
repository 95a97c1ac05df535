"""What a page names exists (files, paths, targets of `make`), and its lines can be read side by side in a review."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
LONGEST = 120
DECISIONS = sorted((ROOT / "docs" / "adr").glob("0*.md"))
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))

_CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")
_PATH = re.compile(r"`((?:bench|docs|envoy|helm|libs|proto|services|tests|tools)/[\w./-]+)`")
_MAKE = re.compile(r"`make ([a-z][\w-]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_what_exists(page: Path) -> None:
    text = page.read_text()
    gone = [link for link in _LINK.findall(text) if not (page.parent / link).exists()]
    # What is built is named, too, and is there where tests run.
    gone += [path for path in _PATH.findall(text) if not (ROOT / path).exists()]
    gone += [f"make {target}" for target in _MAKE.findall(text) if not _is_target(target)]
    assert not gone, f"{page.relative_to(ROOT)} names what does not exist"


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_a_decision_has_four_sections_short_lines_and_a_place_in_the_index(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS, "Use these headings, in this order"
    assert not [line for line in text.splitlines() if len(line) > 120], "Break lines at 120 characters"
    assert f"({page.name})" in (page.parent / "README.md").read_text(), "Add the page to docs/adr/README.md"


def test_pictures_are_shown_and_small() -> None:
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    text = (ROOT / "README.md").read_text()
    assert [one.name for one in pictures if f"(docs/images/{one.name})" not in text] == [], "README shows them"
    assert {one.name: one.stat().st_size for one in pictures if one.stat().st_size >= 200_000} == {}


def test_lines_of_pages_and_protos_are_short() -> None:
    """A row of a table is one line, and so is what a reader copies into a terminal. Ruff checks Python."""
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in (*PAGES, *sorted((ROOT / "proto").rglob("*.proto")))
        for number, line in enumerate(_CODE.sub(_blank, page.read_text()).split("\n"), 1)
        if len(line) > LONGEST and (page.suffix == ".proto" or not line.startswith(("|", "    ")))
    ]
    assert not long, f"break these lines after {LONGEST} characters: {long}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "adr"], ids=lambda page: page.name)
def test_a_command_of_ours_is_a_target(page: Path) -> None:
    """Without `make` it would need `.venv` in the path, and what only some targets install."""
    by_hand = re.findall(r"python -m (?:bench|tests|tools)\b[\w.]*", page.read_text())
    assert not by_hand, f"write a target of the Makefile for what {page.relative_to(ROOT)} tells people to type"


def _is_target(name: str) -> bool:
    kind, _, rest = name.partition("-")
    if kind == "bench" and rest:
        return (ROOT / "bench" / f"{rest.replace('-', '_')}.py").exists()
    return name in TARGETS or kind == "test"


def _blank(block: re.Match[str]) -> str:
    return "\n" * block[0].count("\n")
