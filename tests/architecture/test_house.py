"""Rules of the house that no linter knows. Each failure says what to do instead."""

import ast
import re
import sys
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Final

from tests.architecture import sources
from tests.architecture.sources import Source
from tests.protos import ROOT
from tests.services import built_services

MAX_LINES: Final = 400
MAX_LINES_OF_TESTS: Final = 600
MAX_STATEMENTS: Final = 8
MAX_NAMES: Final = 8
WIDE_DOORS: Final = {
    # One class for each case that callers tell apart, and the table of them.
    "errors": 35,
    # Vocabularies: fields, columns, rules and parts of tests, of which each user needs a few.
    "contract": 25,
    "db": 25,
    "listing": 23,
    "authn": 20,
    "testing": 19,
    "resources": 16,
    # What `server` puts together, and what travels with a call.
    "rpc": 12,
    "call": 10,
    "sagas": 10,
    "telemetry": 9,
}
"""The rooms with more than `MAX_NAMES` names, and how many; a number here only falls."""

_TRANSACTION_CONTROL: Final = re.compile(r"\s*(BEGIN|COMMIT|ROLLBACK|SAVEPOINT)\b")
_SQL: Final = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s", re.IGNORECASE)


def report(offenders: Iterable[str], instead: str) -> str:
    """Returns what a failing rule says."""
    return "\n".join([instead, *(f"  {offender}" for offender in offenders)])


def calls(source: Source, *methods: str) -> list[str]:
    """Returns where one of ``methods`` is called on something."""
    return [
        source.at(node)
        for node in source.nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods
    ]


def texts(source: Source, pattern: re.Pattern[str]) -> list[str]:
    """Returns where a text starts like ``pattern``; docstrings are none."""
    prose = {id(node.value) for node in source.nodes if isinstance(node, ast.Expr)}
    return [
        source.at(node)
        for node in source.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
        if pattern.match(node.value)
    ]


def imports(source: Source, *modules: str) -> list[str]:
    """Returns where one of ``modules``, or a part of it, is imported."""
    found = []
    for node in source.nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        if any(f"{name}.".startswith(f"{module}.") for name in names for module in modules):
            found.append(source.at(node))  # type: ignore[arg-type]
    return found


def test_only_a_transaction_ends_itself() -> None:
    allowed = ("api_common/db/transaction.py", "api_common/db/database.py", "api_common/db/migrations.py")
    modules = [source for source in sources.product() if not source.path.endswith(allowed)]
    offenders = [
        place
        for source in modules
        for place in (*calls(source, "commit", "rollback"), *texts(source, _TRANSACTION_CONTROL))
    ]
    assert not offenders, report(
        offenders, "The transaction commits when a handler returns and rolls back when it raises; raise a DomainError:"
    )


def test_only_the_adapter_aborts_a_call() -> None:
    modules = [source for source in sources.product() if not source.path.endswith("api_common/rpc/adapter.py")]
    offenders = [place for source in modules for place in calls(source, "abort")]
    assert not offenders, report(
        offenders, "Raise a DomainError (api_common/errors/domain.py) instead of aborting the call:"
    )


def test_servicers_hold_no_sql() -> None:
    offenders = [
        place
        for source in sources.read("services/*/*_service/*servicer.py")
        for place in (*imports(source, "sqlalchemy"), *names_of_db(source), *texts(source, _SQL))
    ]
    assert not offenders, report(offenders, "Write the query in the service's repository.py:")


def names_of_db(source: Source) -> list[str]:
    """Returns where a servicer takes more of the database than what a handler is handed."""
    return [
        source.at(node)
        for node in source.nodes
        if isinstance(node, ast.ImportFrom) and node.module == "api_common.db"
        if {alias.name for alias in node.names} - {"Row", "Transaction"}
    ]


def test_the_environment_is_read_in_one_place() -> None:
    # gRPC reads its own variable while it is imported, before there are settings.
    allowed = ("api_common/__init__.py", "api_common/settings.py", "api_common/testing/database.py")
    modules = [source for source in sources.product() if not source.path.endswith(allowed)]
    offenders = [
        source.at(node)
        for source, node in sources.nodes(tuple(modules))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert not offenders, report(offenders, "Add a field to a concern of api_common/settings.py:")


def test_a_room_of_api_common_is_entered_by_its_door() -> None:
    offenders = [
        source.at(node)
        for source, node in sources.nodes(sources.everything())
        if isinstance(node, ast.ImportFrom)
        if (path := (node.module or "").split("."))[0] == "api_common" and len(path) > 2 and path[1] != _room(source)
    ]
    assert not offenders, report(offenders, "Import from the package, e.g. `from api_common.db import Transaction`:")


def test_a_door_says_in_one_sentence_what_is_inside_and_is_narrow() -> None:
    offenders = []
    for source in sources.read("libs/api_common/api_common/*/__init__.py"):
        room, sentence = PurePosixPath(source.path).parent.name, ast.get_docstring(source.tree) or ""
        names = [alias for node in source.nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
        if not sentence.startswith(f"Package {room} holds ") or "\n" in sentence:
            offenders.append(f"{source.path}: {sentence}")
        if len(names) > WIDE_DOORS.get(room, MAX_NAMES):
            offenders.append(f"{source.path}: {len(names)} names")
    assert not offenders, report(offenders, "Merge names that always come together, or move one to its only user:")


def test_tests_of_the_library_know_no_service() -> None:
    services = [built.package for built in built_services()]
    tests = sources.read("libs/api_common/tests/**/*.py")
    offenders = [place for source in tests for place in imports(source, "services", *services)]
    assert not offenders, report(offenders, "Use libs/api_common/tests/example, or move the test to the service's own:")


def _room(source: Source) -> str:
    """Returns the room that a module stands in, or tests from within; empty elsewhere."""
    path = PurePosixPath(source.path).parts
    inside = path[:3] in {("libs", "api_common", "api_common"), ("libs", "api_common", "tests")}
    return path[3] if inside else ""


def test_methods_of_servicers_are_short() -> None:
    offenders = [
        f"{source.at(node)} {node.name}: {count}"
        for source, node in sources.nodes(sources.read("services/*/*_service/*servicer.py"))
        if isinstance(node, ast.AsyncFunctionDef) and (count := _statements(node)) > MAX_STATEMENTS
    ]
    assert not offenders, report(
        offenders,
        f"{MAX_STATEMENTS} statements at most; domain.py takes rules, repository.py queries, operations.py steps:",
    )


def test_modules_are_named_after_what_they_hold() -> None:
    vague = ("utils", "util", "helpers", "helper", "common", "manager", "managers", "misc", "base")
    parts = [(source, PurePosixPath(source.path).with_suffix("").parts) for source in sources.everything()]
    offenders = [source.path for source, names in parts if set(names) & set(vague)]
    assert not offenders, report(offenders, "Name the module after the noun it holds, as pagination.py:")


def test_files_can_be_read_in_one_sitting() -> None:
    sizes = [(source, len(source.text.splitlines())) for source in sources.everything()]
    offenders = [
        f"{source.path}: {lines}"
        for source, lines in sizes
        if lines > (MAX_LINES_OF_TESTS if "tests" in PurePosixPath(source.path).parts else MAX_LINES)
    ]
    assert not offenders, report(
        offenders, f"Split by subject; {MAX_LINES} lines, {MAX_LINES_OF_TESTS} of tests, at most:"
    )


def test_nothing_is_left_for_later() -> None:
    # Put together here, so that this file does not find itself.
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X")))
    patterns = ("proto/**/*.proto", "envoy/**/*.yaml", "helm/**/*", "docs/**/*.md", "*.md", "Makefile")
    other = [
        (str(path.relative_to(ROOT)), path.read_text()) for one in patterns for path in ROOT.glob(one) if path.is_file()
    ]
    everything = [*other, *((source.path, source.text) for source in sources.everything())]
    offenders = [path for path, text in everything if marks.search(text)]
    offenders += [
        source.at(node)
        for source, node in sources.nodes(sources.product())
        if isinstance(node, ast.Name) and node.id == "NotImplementedError"
    ]
    assert not offenders, report(
        offenders, "Do it now or open an issue; a method that is off raises NotImplementedError_:"
    )


def test_every_public_name_of_api_common_is_explained() -> None:
    """Ruff asks for the docstrings of modules, classes and functions; these are the constants and the fields.

    A field whose type is one of ours is explained there.
    """
    explained = {node.name for _, node in sources.nodes(sources.library()) if isinstance(node, ast.ClassDef)}
    offenders = []
    for source in sources.library():
        classes = [node for node in source.nodes if isinstance(node, ast.ClassDef) and node.name[0] != "_"]
        for body in (source.tree.body, *(node.body for node in classes)):
            offenders += [
                f"{source.at(node)} {name}"
                for node, after in zip_longest(body, body[1:])
                if (name := _declared(node, explained)) and not _is_text(after)
            ]
    assert not offenders, report(
        offenders, "Put a docstring under it: what it is, its unit, where its number comes from:"
    )


def test_nothing_measures_the_folders_whose_coverage_says_little() -> None:
    """This is one of those that the root conftest.py lists. To be traced takes each of them half as long again."""
    assert not type(sys.gettrace()).__module__.startswith("coverage"), "pytest-cov measures them all the same"


def _statements(function: ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if _is_text(function.body[0]) else function.body
    return sum(isinstance(node, ast.stmt) for statement in body for node in ast.walk(statement))


def _declared(node: ast.stmt, explained: set[str]) -> str | None:
    """Returns the public constant or field that a statement declares, if it has something to explain."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) if name[0].isupper():
            return None if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "TypeVar" else name
        case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
            kind = ast.unparse(node.annotation).removesuffix(" | None")
            return None if kind in explained or kind.startswith("ClassVar") else name
    return None


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
