"""An RPC that the contract gains needs no line in `envoy/`: the edge is built from its options."""

from pathlib import Path
from typing import Any, Final

from ameide.common.v1 import policy_pb2

from tests.e2e.edge.backend import Backend
from tests.e2e.edge.callers import REPLIES, Ask, ask_grpc, rest_refusal
from tests.e2e.edge.new_rpc import REINDEX, REST, contract_with_reindex
from tests.e2e.edge.plugin import Layout, filter_named, running
from tools.edge.generate import generate

EXPENSIVE: Final = 3
OTHERS: Final = (("GET", "/v1/me"), ("DELETE", "/v1/users/x"))


async def test_is_limited_by_its_class(layout: Layout, published: None, backend: Backend, tmp_path: Path) -> None:
    contract = contract_with_reindex(rate_class=policy_pb2.EXPENSIVE)
    generate(contract, tmp_path)

    def change(manager: Any) -> None:
        for descriptor in filter_named(manager, "identity")["descriptors"]:
            if descriptor["entries"][0]["value"] == "EXPENSIVE":
                bucket = {"max_tokens": EXPENSIVE, "tokens_per_fill": EXPENSIVE, "fill_interval": "600s"}
                descriptor["token_bucket"] = bucket

    async with running(layout("grown", 3, change, generated=tmp_path)) as edge:
        async with edge.client(headers=edge.credentials) as client:
            answers = [await client.post(REST, json={"id": "x"}) for _ in range(EXPENSIVE + 1)]
            unknown = await client.post(REST, json={"colour": "x"})
            # In other classes there is room.
            assert [(await client.request(*one)).status_code for one in OTHERS] == [200, 200]
        assert len(backend.strays) == EXPENSIVE
        rest_refusal(answers[-1]).is_row(REPLIES[429], http_status=429)
        assert (unknown.status_code, rest_refusal(unknown).reason) == (400, "INVALID_REQUEST")
        refused = await ask_grpc(edge, Ask("", REINDEX, edge.credentials))
        refused.is_row(REPLIES[429], http_status=200)
