"""Reasons are the part of an error that programs rely on: each has one class, one meaning, one line in the contract."""

import importlib
from collections import Counter
from collections.abc import Iterator

from api_common.errors import EDGE_REPLIES, REGISTRY, DomainError

from tests import protos
from tests.protos import ROOT
from tests.services import built_services

COMMON = "ameide.common.v1"


def error_classes() -> list[type[DomainError]]:
    """Every DomainError of api_common and the services."""
    importlib.import_module("api_common.errors")
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


def _derived(base: type[DomainError]) -> Iterator[type[DomainError]]:
    for one in base.__subclasses__():
        if one.__module__.split(".")[0] == "api_common" or one.__module__.split(".")[0].endswith("_service"):
            yield one
        yield from _derived(one)
