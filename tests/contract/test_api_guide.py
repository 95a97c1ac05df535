"""The guide's table of errors is the registry's: what clients read is what they get."""

from collections import defaultdict
from typing import Final

from ameide.common.v1 import violation_pb2
from api_common.errors import EDGE_REPLIES, spec_of

from tests.architecture.test_reasons import error_classes
from tests.protos import ROOT
from tools.contract.descriptors import text_of

GUIDE: Final = ROOT / "docs" / "api-guide.md"
HEAD: Final = "| Reason | gRPC | REST | Again? | Means |\n|---|---|---|---|---|"


def table() -> str:
    """Every reason that there is, in the words of its class; then those that only the edge has."""
    statuses: dict[str, set[int]] = defaultdict(set)
    for reply in EDGE_REPLIES:
        statuses[reply.reason].add(reply.http_status)
    rows: dict[str, tuple[str, bool, str]] = {}
    for error in sorted((kind("") for kind in error_classes()), key=lambda error: error.reason):
        spec, said = spec_of(error), (type(error).__doc__ or "").split("\n")[0]
        statuses[error.reason].add(spec.http_status)
        rows[error.reason] = (spec.code.name, spec.retryable, said)
    for reply in EDGE_REPLIES:
        rows.setdefault(reply.reason, (reply.code.name, False, reply.message))
    lines = [
        f"| `{reason}` | {code} | {', '.join(map(str, sorted(statuses[reason])))} | {'yes' if again else ''} | {said} |"
        for reason, (code, again, said) in rows.items()
    ]
    return "\n".join([HEAD, *lines])


def test_the_table_of_violations_is_the_enum() -> None:
    enum = violation_pb2.ViolationReason.DESCRIPTOR
    rows = [f"| `{one.name}` | {text_of(f'{enum.full_name}.{one.name}')} |" for one in enum.values[1:]]
    assert "\n".join(["| Reason | Means |\n|---|---|", *rows, ""]) in GUIDE.read_text()


def test_the_table_of_errors_is_the_registry() -> None:
    text = GUIDE.read_text()
    start = text.index(HEAD)
    found = text[start : text.index("\n\n", start)]
    assert found == table(), f"replace the table of errors in docs/api-guide.md by\n\n{table()}\n"
