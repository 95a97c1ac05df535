"""What the processes of the mesh hold and use, sampled while attacks are played."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psutil

from tools.mesh import postgres, processes
from tools.topology import SERVICES, Mesh

NAMES: Final = ("edge", *(service.name for service in SERVICES), "postgres")

_SAMPLE_SECONDS: Final = 0.5
_PROBE_SAMPLES: Final = 2
"""Every second sample asks for readiness, too."""


@dataclass(frozen=True, slots=True)
class Sample:
    """All processes at one instant."""

    taken: float
    memory: Mapping[str, int]
    """Private bytes by process; Postgres counts as one."""
    cpu: Mapping[str, float]
    """Seconds since the process began."""
    pids: Mapping[str, int]
    unready: tuple[str, ...] = ()
    """Processes whose readiness did not answer, or was off."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one process needed during an attack."""

    peak_mib: float
    cpu_seconds: float


class Sampler:
    """Takes samples in a thread of its own."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._samples: list[Sample] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=[ended])
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def between(self, begin: float, end: float) -> list[Sample]:
        return [sample for sample in self._samples if begin <= sample.taken <= end]

    def _run(self, ended: threading.Event) -> None:
        number = 0
        while not ended.wait(_SAMPLE_SECONDS):
            number += 1
            self._samples.append(self.take(probe=number % _PROBE_SAMPLES == 0))

    def take(self, *, probe: bool = False) -> Sample:
        taken, memory, cpu, pids = time.monotonic(), {}, {}, {}
        for name, process in self._groups():
            memory[name], cpu[name], pids[name] = 0, 0.0, process[0].pid
            for one in process:
                with contextlib.suppress(psutil.NoSuchProcess):
                    held, times = one.memory_info(), one.cpu_times()
                    memory[name] += held.rss - held.shared
                    cpu[name] += times.user + times.system
        asked = [name for name in NAMES if name != "postgres"] if probe else []
        return Sample(taken, memory, cpu, pids, tuple(one for one in asked if not processes.is_ready(self._mesh, one)))

    def _groups(self) -> Iterator[tuple[str, list[psutil.Process]]]:
        for name, process in processes.pids(self._mesh):
            if name in NAMES:
                yield name, [process]
        if pid := postgres.pid(self._mesh.postgres):
            with contextlib.suppress(psutil.NoSuchProcess):
                server = psutil.Process(pid)
                yield "postgres", [server, *server.children()]


def usage(samples: list[Sample]) -> dict[str, Usage]:
    """Returns the peak of memory and the CPU time of each process over some samples."""
    first, last = samples[0], samples[-1]
    return {
        name: Usage(
            max(sample.memory.get(name, 0) for sample in samples) / 2**20,
            max(0.0, last.cpu.get(name, 0.0) - first.cpu.get(name, 0.0)),
        )
        for name in NAMES
    }


def ended(samples: list[Sample]) -> list[str]:
    """Returns the processes that went away, whether they came back or not."""
    return [name for name, pid in samples[0].pids.items() if any(one.pids.get(name) != pid for one in samples)]


def unready(samples: list[Sample]) -> int:
    """Counts the questions for readiness that were not answered with yes."""
    return sum(len(sample.unready) for sample in samples)
