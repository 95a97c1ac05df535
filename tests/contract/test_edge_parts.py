"""What `make proto` makes of an RPC for the edge depends on its options, never on its name."""

from pathlib import Path

import pytest
import yaml
from ameide.common.v1 import policy_pb2
from google.protobuf.descriptor_pb2 import MethodOptions

from tests.contract.test_edge_rate_limits import class_of
from tests.e2e.edge.new_rpc import REINDEX, REST, contract_with_reindex
from tests.lua.filters import Filter
from tools.edge import routes
from tools.edge.generate import generate


@pytest.mark.parametrize("name", ["READ", "WRITE", "EXPENSIVE"])
def test_its_rate_class_is_its_policy_s(name: str, tmp_path: Path) -> None:
    generate(contract_with_reindex(rate_class=policy_pb2.RateClass.Value(name)), tmp_path)
    strict = Filter("strict", tmp_path)
    assert {class_of("POST", path, strict) for path in (REINDEX, REST)} == {name}


def test_without_a_rate_class_it_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ameide\.user\.v1\.UserService\.ReindexUsers must have a rate_class"):
        generate(contract_with_reindex(), tmp_path)


@pytest.mark.parametrize("safe", [True, False])
def test_it_is_repeated_if_it_has_no_side_effects(safe: bool) -> None:
    contract = contract_with_reindex(rate_class=policy_pb2.READ)
    services = [service for file in contract.file for service in file.service]
    (method,) = (one for service in services for one in service.method if one.name == "ReindexUsers")
    if safe:
        method.options.idempotency_level = MethodOptions.NO_SIDE_EFFECTS
    found = [one for one in routes.routes(routes.public_services(contract)) if "ReindexUsers" in str(one["match"])]
    assert [(one["kind"], one["cluster"]) for one in found] == ([("safe", "users")] if safe else [])


def test_every_part_knows_it(tmp_path: Path) -> None:
    generate(contract_with_reindex(rate_class=policy_pb2.EXPENSIVE), tmp_path)
    counted = yaml.safe_load((tmp_path / "grpc_stats.yaml").read_text())
    assert "ReindexUsers" in {name for one in counted for name in one["method_names"]}
    assert REST.partition(":")[2] in (tmp_path / "rest_routes.lua").read_text()
