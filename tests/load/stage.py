"""What every contender stands on: users in a Postgres, certificates, an issuer, the environment of the users service."""

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg
import orjson
import psutil
import uuid_utils
from ameide.user.v1 import user_pb2 as pb
from api_common.testing.database import TestDatabase, create_database, postgres_server
from api_common.testing.identity import AUDIENCE, ISSUER, Caller, Identity
from cryptography.fernet import Fernet
from tools import certificates
from users_service.service import SERVICE

TENANT: Final = "bench"
_USERS: Final = 1000


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything that contenders share."""

    folder: Path
    database: TestDatabase
    caller: Caller
    environment: dict[str, str]
    postmaster: int | None
    """Process id of Postgres, if it runs on this machine."""

    def postgres_cpu_ns(self) -> int:
        """Returns the CPU time of all of Postgres' processes so far; 0 if it runs elsewhere."""
        if self.postmaster is None:
            return 0
        postmaster = psutil.Process(self.postmaster)
        return sum(cpu_ns(process.pid) for process in (postmaster, *postmaster.children()))


def cpu_ns(pid: int) -> int:
    """Returns the CPU time of a process so far, threads that have ended included (`/proc/<pid>/task` forgets them).

    Source: clock_getcpuclockid(3); the Linux encoding of a process's clock is `~pid << 3 | CPUCLOCK_SCHED`.
    """
    import time

    return time.clock_gettime_ns((~pid << 3) | 2)


def users_of(folder: Path) -> Sequence[pb.User]:
    """Returns the users that are in the database, as the service must answer them."""
    return pb.ListUsersResponse.FromString((folder / "users.pb").read_bytes()).users
