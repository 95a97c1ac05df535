"""Reasons are the part of an error that programs rely on: each has one class, one meaning, one line in the contract."""

import ast
import importlib
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, get_args

import api_common
from api_common.errors import EDGE_REPLIES, REGISTRY, DomainError, ViolationReason
from api_common.rpc import REASONS_BY_RULE
from buf.validate import validate_pb2

from tests import protos
from tests.architecture import sources
from tests.protos import ROOT
from tests.services import built_services

COMMON = "ameide.common.v1"
UNSENT = {
    "CANCELLED": "a caller that cancelled its call reads no answer; clients give the error this name",
    "DATA_LOSS": "nothing sends it, and a reason is never withdrawn",
}
"""Reasons of the contract that no call is answered with, and why."""
SENDERS = ("libs/api_common/api_common/**/*.py", "services/*/*_service/*.py", "envoy/lua/*.lua", "tools/edge/*.py")
OF_THE_FORM = {"pattern", "uuid", "email", "uri"}
"""Rules whose violation is INVALID_FORMAT."""


def error_classes() -> list[type[DomainError]]:
    """Every DomainError of api_common and the services."""
    # An error that one room alone raises stands in that room.
    for room in pkgutil.iter_modules(api_common.__path__):
        importlib.import_module(f"api_common.{room.name}")
    for path in sorted(ROOT.glob("services/*/*_service/errors.py")):
        importlib.import_module(f"{path.parent.name}.errors")
    return sorted(_derived(DomainError), key=lambda error: error.__name__)


def reasons_by_package() -> dict[str, set[str]]:
    """The values of every enum `Reason`, without the zero value."""
    enums = [enum for enum in protos.enums() if enum.name == "Reason"]
    return {enum.file.package: {value.name for value in enum.values if value.number} for enum in enums}


def test_every_error_has_a_reason_of_its_own() -> None:
    inherited = [error.__name__ for error in error_classes() if "reason" not in vars(error)]
    assert not inherited, "give the class its own `reason`; programs cannot tell it from its base otherwise"
    shared = [reason for reason, count in Counter(error.reason for error in error_classes()).items() if count > 1]
    assert not shared, "two classes have one reason; rename one, or raise the class that exists"


def test_the_contract_lists_every_reason_where_it_belongs() -> None:
    packages = reasons_by_package()
    contracts = {built.package: built.service.descriptors[0].file.package for built in built_services()}
    for error in error_classes():
        package = contracts.get(error.__module__.partition(".")[0], COMMON)
        assert error.reason in packages[package], f"add {error.reason} to the enum Reason of {package}"


def test_nothing_in_the_contract_is_never_sent() -> None:
    sent = {error.reason for error in error_classes()} | {reply.reason for reply in EDGE_REPLIES}
    for package, names in reasons_by_package().items():
        assert names <= sent, f"{package}.Reason: {names - sent} has neither a class nor a row in EDGE_REPLIES"


def test_every_reason_reaches_a_caller_in_a_test() -> None:
    """`refused`, `is_row` and a comparison fail unless a real answer has the reason: it is enough that they name it."""
    reached = {text for function in _functions() for text in _expected_reasons(function)}
    for package, names in reasons_by_package().items():
        assert names - UNSENT.keys() <= reached, (
            f"{package}.Reason: write a test whose call is answered with {names - UNSENT.keys() - reached}"
        )
    assert not UNSENT.keys() & reached, "it is sent now: take it out of UNSENT"


def test_a_reason_means_the_same_in_every_package() -> None:
    counted = Counter(name for names in reasons_by_package().values() for name in names)
    assert not [name for name, count in counted.items() if count > 1], (
        "a reason of two packages belongs into the common one"
    )


def test_every_canonical_error_has_one_row_in_the_registry() -> None:
    rows = [spec.error for spec in REGISTRY]
    assert set(rows) == set(DomainError.__subclasses__())
    assert len(rows) == len(set(rows))


def test_the_edge_says_what_the_services_say() -> None:
    """An edge reply with a reason that a class has must have the same gRPC code as the class."""
    codes = {spec.error.reason: spec.code for spec in REGISTRY}
    for reply in EDGE_REPLIES:
        assert codes.get(reply.reason, reply.code) == reply.code, reply
        assert reply.reason in reasons_by_package()[COMMON], f"{reply.reason} is missing from {COMMON}.Reason"


class TestOfViolations:
    def test_are_those_of_the_contract(self) -> None:
        (enum,) = (one for one in protos.enums() if one.name == "ViolationReason")
        assert get_args(ViolationReason) == tuple(value.name for value in enum.values[1:])

    def test_are_all_sent_and_all_reach_a_caller_in_a_test(self) -> None:
        """The type checker holds each to the enum; a test compares what a caller got with the name."""
        sent = "".join(path.read_text() for pattern in SENDERS for path in sorted(ROOT.glob(pattern)))
        tests = sources.read("services/*/tests/**/*.py", "tests/e2e/edge/*.py", "libs/*/tests/**/*.py")
        for name in get_args(ViolationReason):
            assert f'"{name}"' in sent, f"ViolationReason: nothing sends {name}"
            assert any(f'"{name}"' in module.text for module in tests), f"write a test that is answered with {name}"

    def test_say_which_rule_is_broken(self) -> None:
        for message in protos.request_messages():
            for field in message.fields:
                for rule in _rules(protos.option(field, validate_pb2.field)):
                    known = rule in OF_THE_FORM or rule in REASONS_BY_RULE
                    assert known, f"{field.full_name}: give the rule {rule} a reason in rpc/layers/admission.py"


def _rules(rules: Any) -> Iterator[str]:
    """Yields the names of rules, also of those for items, keys and values."""
    kind = rules.WhichOneof("type")
    for field, value in getattr(rules, kind).ListFields() if kind else ():
        if field.name in {"items", "keys", "values"}:
            yield from _rules(value)
        else:
            yield field.name


def _derived(base: type[DomainError]) -> Iterator[type[DomainError]]:
    for one in base.__subclasses__():
        if one.__module__.split(".")[0] == "api_common" or one.__module__.split(".")[0].endswith("_service"):
            yield one
        yield from _derived(one)


def _functions() -> Iterator[ast.AST]:
    modules = sources.read("services/*/tests/**/*.py", "tests/**/*.py", "libs/*/tests/**/*.py")
    for _, node in sources.nodes(modules):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node


def _expected_reasons(function: ast.AST) -> Iterator[str]:
    """Yields the reasons that a test expects of answers, also those that it takes from its own table of cases."""
    for node in ast.walk(function):
        match node:
            case ast.Call(func=ast.Name(id="refused"), args=[_, ast.Constant(value=reason)]):
                yield str(reason)
            case ast.Call(func=ast.Name(id="refused")):
                yield from (str(one.value) for one in ast.walk(function) if isinstance(one, ast.Constant))
            case ast.Call(func=ast.Attribute(attr="is_row"), args=[ast.Subscript(slice=ast.Constant(value=status))]):
                yield from (reply.reason for reply in EDGE_REPLIES if reply.http_status == status)
            case ast.Compare(left=ast.Attribute(attr="reason"), comparators=[ast.Constant(value=reason)]):
                yield str(reason)


def test_what_is_wrong_with_a_field_reads_on_from_its_name() -> None:
    """A message says `user.email is required`: of field and description it makes one sentence."""
    makers = {
        "FieldViolation",
        "of",
        "_at",
        "_at_node",
        "_at_edge",
        "_filter_error",
        "_order_error",
        "_RefusedFieldError",
    }
    verbs = re.compile(r"(is|must|has|needs|names|nests|holds|leads|lies|cannot|compares|does|may) ")
    calls = (
        (source, node)
        for source in sources.product()
        for node in source.nodes
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in makers
    )
    said = {source.at(part): _beginning(part) for source, node in calls for part in node.args}
    sentences = {place: text for place, text in said.items() if " " in text}
    assert len(sentences) > 12
    wrong = [f"{place} {text}" for place, text in sentences.items() if not verbs.match(text)]
    assert not wrong, "begin with a verb, and name the thing behind a colon"


def _beginning(text: ast.expr) -> str:
    """Returns what a text begins with; empty if it is computed."""
    first = text.values[0] if isinstance(text, ast.JoinedStr) else text
    return str(first.value) if isinstance(first, ast.Constant) else ""
