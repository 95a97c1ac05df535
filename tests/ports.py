"""Ports for what a test starts, which no other test takes meanwhile: of this run, or of another on the machine."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tools.mesh.processes import is_free
from tools.topology import SAFE_OFFSETS, Mesh

_held: set[int] = set()
# Byte number n stands for port n. A lock ends with the process that holds it, however that ends; but also when it
# closes any handle to the file, so there is one for good.
_PATH: Final = Path(tempfile.gettempdir()) / f"ameide-ports-{os.getuid()}"
_locks = os.open(_PATH, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextmanager
def reserved(offsets: Iterable[int], ports: Callable[[int], Iterable[int]]) -> Iterator[int]:
    """Yields the first of ``offsets`` whose ports are free, and keeps them from every other test until the block ends.

    To look whether a port is free is not enough: it stays so until its server listens, seconds later.

    Args:
        ports: which ports an offset means.
    """
    offset, taken = next((offset, taken) for offset in offsets if (taken := _take(ports(offset))))
    try:
        yield offset
    finally:
        _give_back(taken)


@contextmanager
def mesh_offset() -> Iterator[int]:
    """Reserves a `PORT_OFFSET` with which a mesh can start."""
    with reserved(SAFE_OFFSETS, lambda offset: Mesh(Path(), offset).ports.values()) as offset:
        yield offset


def _take(ports: Iterable[int]) -> list[int]:
    taken: list[int] = []
    for port in ports:
        try:
            if port in _held:
                raise BlockingIOError
            fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except OSError:
            _give_back(taken)
            return []
        taken.append(port)
        _held.add(port)
    if not all(map(is_free, taken)):
        _give_back(taken)
        return []
    return taken


def _give_back(ports: Iterable[int]) -> None:
    for port in ports:
        fcntl.lockf(_locks, fcntl.LOCK_UN, 1, port)
        _held.discard(port)
