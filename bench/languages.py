"""Measures what one GetAgent costs in each language of the edge: `python -m bench.languages`, against `make up`.

It makes the calls over one HTTP/1.1 connection, in rounds of all languages in turn, and reads the CPU time of the edge,
of the agents service and of Postgres. The client's own is not counted. `--bytes` is the size of the agent.
"""

import argparse
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
from ameide.agent.v1 import agent_pb2 as pb

from bench.attack.samples import Sampler
from bench.rounds import Ratio, paired
from tools.mesh.commands import running_mesh
from tools.secrets import identity
from tools.topology import Mesh

BASE: Final = "REST"
PROCESSES: Final = ("edge", "agents", "postgres")
_RPC: Final = "/ameide.agent.v1.AgentService/GetAgent"
_CONNECT: Final = {"connect-protocol-version": "1"}


def requests_for(agent: str, etag: str) -> Mapping[str, tuple[int, Mapping[str, Any]]]:
    """Returns the request of each language, and the status that it is answered with."""
    message = pb.GetAgentRequest(id=agent).SerializeToString()
    framed = b"\0" + len(message).to_bytes(4, "big") + message

    def post(media_type: str, content: bytes, **headers: str) -> tuple[int, Mapping[str, Any]]:
        return 200, {
            "method": "POST",
            "url": _RPC,
            "content": content,
            "headers": {"content-type": media_type, **headers},
        }

    rest = {"method": "GET", "url": f"/v1/agents/{agent}"}
    return {
        BASE: (200, rest),
        "REST, 304": (304, {**rest, "headers": {"if-none-match": etag}}),
        "gRPC-Web": post("application/grpc-web+proto", framed, **{"x-grpc-web": "1"}),
        "Connect, protobuf": post("application/proto", message, **_CONNECT),
        "Connect, JSON": post("application/json", json.dumps({"id": agent}).encode(), **_CONNECT),
    }


def measure(mesh: Mesh, *, rounds: int, calls: int, size: int) -> Mapping[str, Sequence[Mapping[str, float]]]:
    """Returns microseconds of CPU time per call, by language, round and process."""
    token = identity.mint(mesh.issuer, sub="ada", tenant="bench", roles=["admin"], ttl_seconds=3600)
    sampler, chance = Sampler(mesh), random.Random(1)
    found: dict[str, list[Mapping[str, float]]] = {}
    with httpx.Client(base_url=mesh.url, headers={"authorization": f"Bearer {token}"}, verify=False) as client:
        agent = {"displayName": "Ada", "model": "m", "instructions": random.Random(1).randbytes(size // 2).hex()}
        made = client.post("/v1/agents", json=agent)
        made.raise_for_status()
        languages = requests_for(made.json()["id"], made.headers["etag"])
        for number in range(rounds + 1):
            for name in chance.sample(list(languages), len(languages)):
                status, request = languages[name]
                before = sampler.take().cpu
                for _ in range(calls):
                    answer = client.request(**request)
                    assert answer.status_code == status, (name, answer.status_code, answer.text)
                after = sampler.take().cpu
                # The first round warms everything up.
                if number:
                    used = {process: (after[process] - before[process]) / calls * 1e6 for process in PROCESSES}
                    found.setdefault(name, []).append(used)
    return found


def _ratio(rounds: Mapping[str, Sequence[float]], name: str) -> Ratio:
    return paired(enumerate(rounds[name]), enumerate(rounds[BASE]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.languages", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--calls", type=int, default=400, help="of each language in a round")
    parser.add_argument("--bytes", type=int, default=0, help="of the agent's instructions (default: none)")
    given = parser.parse_args()
    mesh = running_mesh(Mesh.from_environment())
    if mesh is None:
        raise SystemExit("No mesh is running: make up.")
    found = measure(mesh, rounds=given.rounds, calls=given.calls, size=given.bytes)
    print("| GetAgent | edge, µs | agents | Postgres | all ÷ REST (95 %) | edge ÷ REST (95 %) |")
    print("|---|---|---|---|---|---|")
    edge = {name: [one["edge"] for one in rounds] for name, rounds in found.items()}
    every = {name: [sum(one.values()) for one in rounds] for name, rounds in found.items()}
    for name, rounds in found.items():
        each = " | ".join(f"{statistics.mean(one[process] for one in rounds):.0f}" for process in PROCESSES)
        print(f"| {name} | {each} | {_ratio(every, name)} | {_ratio(edge, name)} |")


if __name__ == "__main__":
    main()
