"""How full a pool of connections is, as metrics show it."""

from typing import NamedTuple


class Occupancy(NamedTuple):
    """How full a pool is."""

    size: int
    """Connections at most."""
    open: int
    """Connections there are."""
    idle: int
    """How many of them nobody uses."""
    waiting: int
    """Who waits for one."""
    timeouts: int
    """How many waited in vain, ever."""
