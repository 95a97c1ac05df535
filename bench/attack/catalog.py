"""All attacks, in the order in which they are played. A new one is a function and a line in its module."""

from collections.abc import Mapping
from typing import Final

from bench.attack import bodies, connections, frames, headers, messages, queries, storage, tokens, watches
from bench.attack.attacker import Attack

_MODULES: Final = (frames, connections, bodies, queries, tokens, storage, watches, messages, headers)

ATTACKS: Final[Mapping[str, Attack]] = {one.name: one for module in _MODULES for one in module.ATTACKS}
