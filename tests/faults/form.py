"""How long and how often: the short form is part of `make test`, the full one is `make faults`."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tools.topology import SERVICES, Service

Report = Callable[[str, str], None]
"""Notes what was done, and what came of it."""
NAMED: Final = {service.name: service for service in SERVICES}


@dataclass(frozen=True)
class Form:
    """What both forms do, in figures."""

    load_seconds: float
    """Of load before a fault, and again after it."""
    rounds: int
    """How often every service is replaced, and how often one is killed."""
    outage_seconds: float
    """How long Postgres stays away or frozen."""
    leaving: int
    """How many callers leave in the midst of a call."""
    restarted: tuple[Service, ...]
    """What is replaced under load."""
    sibling_faults: tuple[signal.Signals, ...]
    """What a service gets that others call; one that hangs takes 4 s longer."""


SHORT: Final = Form(
    load_seconds=0.5,
    rounds=1,
    outage_seconds=0.5,
    leaving=20,
    restarted=(NAMED["users"],),
    sibling_faults=(),
)
FULL: Final = Form(
    load_seconds=5,
    rounds=5,
    outage_seconds=3,
    leaving=200,
    restarted=SERVICES,
    sibling_faults=(signal.SIGKILL, signal.SIGSTOP),
)
IS_FULL: Final = os.environ.get("FAULTS") == "full"
FORM: Final = FULL if IS_FULL else SHORT
