"""The Python of the house, parsed."""

import ast
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.protos import ROOT


@dataclass(frozen=True, slots=True)
class Source:
    """One module."""

    path: str
    """From the root of the repository."""
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]
    """All of the tree."""

    def at(self, node: ast.stmt | ast.expr) -> str:
        """Returns where ``node`` stands, as editors and terminals understand it."""
        return f"{self.path}:{node.lineno}"


@cache
def read(*patterns: str) -> tuple[Source, ...]:
    """Returns the modules that match ``patterns``, seen from the root."""
    paths = sorted(path for pattern in patterns for path in ROOT.glob(pattern) if "ameide_protos" not in path.parts)
    # Half a million nodes stay: looking through them for garbage again and again took longer than parsing.
    gc.disable()
    try:
        return tuple(_parse(path) for path in paths)
    finally:
        gc.freeze()
        gc.enable()


def library() -> tuple[Source, ...]:
    """The modules of api_common."""
    return read("libs/api_common/api_common/**/*.py")


def product() -> tuple[Source, ...]:
    """What runs in production: api_common and the services."""
    return (*library(), *read("services/*/*_service/**/*.py"))


def everything() -> tuple[Source, ...]:
    """All Python that somebody wrote."""
    return (
        *product(),
        *clients(),
        *read("services/*/migrations/**/*.py", "services/*/tests/**/*.py"),
        *tools_and_tests(),
    )


def clients() -> tuple[Source, ...]:
    """What runs at the clients' side, without what is generated."""
    return tuple(source for source in read("clients/python/**/*.py") if not source.text.startswith("# Generated"))


def tools_and_tests() -> tuple[Source, ...]:
    """What builds, runs and checks the house."""
    return read("tools/**/*.py", "tests/**/*.py", "bench/**/*.py", "libs/*/tests/**/*.py", "*.py")


def nodes(sources: tuple[Source, ...]) -> Iterator[tuple[Source, ast.AST]]:
    """Yields every node of every module."""
    for source in sources:
        for node in source.nodes:
            yield source, node


@cache
def _parse(path: Path) -> Source:
    text = path.read_text()
    tree = ast.parse(text)
    return Source(str(path.relative_to(ROOT)), text, tree, tuple(ast.walk(tree)))
