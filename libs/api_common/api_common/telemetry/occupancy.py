"""How full a pool of connections is."""

from typing import NamedTuple


class Occupancy(NamedTuple):
    """How full a pool is."""

    size: int
    """Connections at most."""
    open: int
    """Open connections."""
    idle: int
    """Open connections that are not in use."""
    waiting: int
    """Callers that wait for one."""
    timeouts: int
    """Callers that waited in vain since the start."""
