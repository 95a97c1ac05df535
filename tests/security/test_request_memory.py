"""A request takes a bounded part of its size in memory, whatever it is filled with and however it travels."""

import asyncio
import multiprocessing
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import grpc
import pytest
from agents_service.service import SERVICE
from ameide.agent.v1 import agent_pb2 as pb
from ameide.agent.v1.agent_pb2_grpc import AgentServiceStub
from api_common.settings import Settings
from api_common.testing import Caller, Identity, TestDatabase, running_service, settings_for

from bench.attack.messages import field, many, within
from services.agents.tests.factories import an_agent
from tests.protos import ROOT

MIB: Final = 1024 * 1024
SPARE: Final = 8 * MIB
"""For threads, connections and code that the first large request needs."""
INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
OPTIONS: Final = (("grpc.max_receive_message_length", 16 * MIB),)
AGENTS: Final = pb.DESCRIPTOR.services_by_name["AgentService"]
KINDS: Final[dict[str, Callable[[], bytes]]] = {
    "a text": lambda: within((1, 3), "😀".encode() * (10 * MIB // 4 - 8)),
    "labels": lambda: many((1,), field(4, b"")),
    "a Struct of nulls": lambda: many((1, 34, 1, 2, 6), field(1, b"\x08\0")),
    "unknown fields": lambda: many((), field(999, b"")),
}


class Memory:
    """How much a process takes, in bytes."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._at_rest = self._now("VmRSS")

    def begin(self) -> None:
        """Forgets the most that it took before."""
        (self._folder / "clear_refs").write_text("5")

    def grown(self) -> int:
        """Returns the most that it took since, beyond what it took at rest."""
        return self._now("VmHWM") - self._at_rest

    def _now(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def serve(settings: Settings, parent: Connection) -> None:
    """Runs the service until the parent says something."""

    async def run() -> None:
        async with running_service(SERVICE, settings) as service:
            parent.send(service.server.grpc_port)
            await asyncio.to_thread(parent.recv)

    asyncio.run(run())


@contextmanager
def process(settings: Settings) -> Iterator[tuple[int, int]]:
    """Yields pid and port of the service in a process of its own, where nobody else takes memory."""
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=serve, args=(settings, there), daemon=True)
    child.start()
    assert child.pid
    try:
        yield child.pid, here.recv()
    finally:
        here.send(None)
        child.join(20)


@pytest.fixture
async def service(
    agents_database: TestDatabase, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[grpc.aio.Channel, int]]:
    """A service as the image runs it: a channel to it, and its pid."""
    for name, value in re.findall(r"(MALLOC_\w+)=(\d+)", (ROOT / "Dockerfile").read_text()):
        monkeypatch.setenv(name, value)
    with process(settings_for(agents_database, identity)) as (pid, port):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
            yield channel, pid


async def test_refused_ones_take_three_times_their_size(service: tuple[grpc.aio.Channel, int], admin: Caller) -> None:
    channel, pid = service
    await AgentServiceStub(channel).ListAgents(pb.ListAgentsRequest(), metadata=admin.metadata)
    memory, seen = Memory(pid), dict[str, int]()
    create: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{AGENTS.full_name}/CreateAgent")
    for kind, make in KINDS.items():
        payload = make()
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            memory.begin()
            assert await create(payload, metadata=admin.metadata, compression=compression).code() == INVALID
            seen[f"{kind}, {compression.name}"] = memory.grown()
    # Of all together: what one takes is free for the next.
    assert max(seen.values()) <= 3 * 10 * MIB + SPARE, seen


async def test_a_batch_takes_six_times_its_size(service: tuple[grpc.aio.Channel, int], admin: Caller) -> None:
    """It and its answer, which is as large: as bytes, as messages and as rows."""
    channel, pid = service
    agents, memory, seen = AgentServiceStub(channel), Memory(pid), list[int]()
    created = [pb.CreateAgentRequest(agent=an_agent(instructions="x" * 102_000)) for _ in range(100)]
    for _ in range(3):
        memory.begin()
        await agents.BatchCreateAgents(pb.BatchCreateAgentsRequest(requests=created), metadata=admin.metadata)
        seen.append(memory.grown())
    assert max(seen) <= 6 * 10 * MIB + SPARE, seen
