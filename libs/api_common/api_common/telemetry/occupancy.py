"""How full a pool of connections is, and how far shares are used up."""

from typing import NamedTuple


class ShareUse(NamedTuple):
    """How much the greatest holder of a share holds."""

    resource: str
    """What is shared, such as `calls`."""
    holder: str
    """`tenant` or `principal`."""
    used: int
    """What the greatest of them holds now."""
    limit: int
    """What each of them may hold."""
    refusals: int
    """Requests for more, since the start."""


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
