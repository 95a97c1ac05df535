"""The process that makes the load: reads one order per line from stdin, prints one result per line.

It checks every answer. An order without a rate keeps a fixed number of calls in flight. An order with a rate schedules
each call, and counts its latency from the scheduled time, even if the call is sent late.
"""

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path

import uvloop

from bench.grpc_calls import GrpcCaller
from bench.order import Order
from bench.stage import TENANT, WRITTEN
from bench.work import PLANS, make_works


def _main(folder: Path, tokens: list[str]) -> None:
    works, credentials = make_works(folder), {TENANT: f"Bearer {tokens[0]}", WRITTEN: f"Bearer {tokens[1]}"}
    grpc_caller = GrpcCaller(folder)
    begun = 0
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while line := sys.stdin.readline():
            order = Order(**json.loads(line))
            plan, work = PLANS[order.work], works[order.work]
            numbers = [0] * order.count if order.is_constant else range(begun, begun + order.count)
            begun += order.count
            if order.transport in {"mtls", "grpc"}:
                result = runner.run(grpc_caller.run(order, plan, work, numbers, credentials[plan.tenant]))
            else:
                # Only `make bench` installs it.
                from bench import http_calls

                result = http_calls.run(order, plan, work, numbers, credentials[plan.tenant])
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
