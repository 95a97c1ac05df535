"""What attacks call: the collections of the mesh, and the names of their RPCs."""

from typing import Final

from tools.topology import SERVICES

COLLECTIONS: Final = tuple(service.name for service in SERVICES)
NEVER: Final = "019b7b1c-52ce-7c1e-8a54-3f6d2b9e4c10"
"""An id that names nothing."""


def rpc(collection: str, verb: str) -> str:
    """Returns the path of a standard RPC: `Get`, `List`, `BatchGet`, `Watch` … of a collection."""
    noun = collection[:-1].title()
    plural = verb.startswith(("List", "Watch", "Batch"))
    return f"/ameide.{noun.lower()}.v1.{noun}Service/{verb}{noun}{'s' if plural else ''}"
