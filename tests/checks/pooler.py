"""A PgBouncer as docs/scaling.md sets it up: its settings, and those of the logins, are read from the page."""

import asyncio
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import asyncpg

from tools.topology import ROOT

OLDEST: Final = (1, 21)
"""The first PgBouncer that keeps prepared statements in transaction mode."""
SERVER_CONNECTIONS: Final = 3
"""To each database: fewer than calls at once, so that tenants follow each other on every one of them."""
PASSWORD: Final = "of-every-role"
OPERATOR: Final = "operator"
CACHE: Final = ROOT / ".cache" / "pgbouncer" / "trixie"
_PAGE: Final = (ROOT / "docs" / "scaling.md").read_text()
SETTINGS: Final = re.findall(r"^    (\w+ = .+)$", _PAGE, re.MULTILINE)
ROLE_SETTINGS: Final = re.findall(r"^ +(ALTER ROLE users_login SET .+;)$", _PAGE, re.MULTILINE)
_LIBRARIES: Final = CACHE / "usr/lib" / f"{os.uname().machine}-linux-gnu"


def command() -> list[str]:
    """Returns how to start PgBouncer; fetches Debian 13's if there is none that is new enough.

    Raises:
        SystemExit: it cannot be had here.
    """
    installed = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if installed and _version([installed]) >= OLDEST:
        return [installed]
    if not CACHE.exists():
        if shutil.which("mmdebstrap") is None:
            raise SystemExit(
                "This check needs PgBouncer 1.21 or newer. On Debian 13 and Ubuntu 24.04: apt install pgbouncer. "
                "On Debian 12: apt install mmdebstrap, with which the check fetches it (110 MB)"
            )
        half = CACHE.with_name("half")
        shutil.rmtree(half, ignore_errors=True)
        half.parent.mkdir(parents=True, exist_ok=True)
        words = ["mmdebstrap", "--quiet", "--variant=extract", "--include=pgbouncer", "trixie", str(half)]
        subprocess.run(words, check=True)
        half.rename(CACHE)
    # With the libraries that it was built for, and not those of this machine.
    (loader,) = _LIBRARIES.glob("ld-linux-*")
    return [str(loader), "--library-path", str(_LIBRARIES), str(CACHE / "usr/sbin/pgbouncer")]


def _version(words: list[str]) -> tuple[int, ...]:
    said = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.findall(r"\d+", said.split()[1])))


@dataclass
class Pooler:
    """A PgBouncer before a Postgres, which listens with TLS and lets in who knows a password."""

    folder: Path
    port: int
    socket: str
    """The folder of Postgres' Unix socket."""
    certificates: Path
    databases: Mapping[str, str]
    """The login of each database."""
    settings: list[str] = field(default_factory=lambda: SETTINGS)
    _process: subprocess.Popen[bytes] | None = None

    def url(self, database: str, login: str = "") -> str:
        query = {"sslmode": "verify-full", "sslrootcert": str(self.certificates / "ca.pem")}
        login = login or self.databases[database]
        return f"postgresql://{login}:{PASSWORD}@127.0.0.1:{self.port}/{database}?{urlencode(query)}"

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        logins = [*self.databases.values(), OPERATOR]
        self._write("users.txt", "".join(f'"{login}" "{PASSWORD}"\n' for login in logins))
        for name in ("edge.pem", "edge.key"):
            self._write(name, (self.certificates / name).read_text())
        lines = [
            "[databases]",
            f"* = host={self.socket}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {self.port}",
            "unix_socket_dir =",
            "auth_type = scram-sha-256",
            f"auth_file = {self.folder / 'users.txt'}",
            f"admin_users = {OPERATOR}",
            "client_tls_sslmode = require",
            f"client_tls_cert_file = {self.folder / 'edge.pem'}",
            f"client_tls_key_file = {self.folder / 'edge.key'}",
            "max_client_conn = 1000",
            f"default_pool_size = {SERVER_CONNECTIONS}",
            *([f"user = {pwd.getpwuid(self._owner).pw_name}"] if self._owner is not None else ()),
            *self.settings,
        ]
        self._write("pgbouncer.ini", "\n".join(lines) + "\n")
        with (self.folder / "pgbouncer.log").open("ab") as log:
            # Another user by its own settings: with `user=` Python forks, which gRPC's threads do not always survive.
            words = [*command(), "--quiet", str(self.folder / "pgbouncer.ini")]
            self._process = subprocess.Popen(words, stdout=log, stderr=log)

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it; SIGINT lets transactions end first."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    async def until_it_answers(self) -> None:
        async with asyncio.timeout(30):
            while True:
                assert self._process is None or self._process.poll() is None, (
                    self.folder / "pgbouncer.log"
                ).read_text()
                try:
                    await self.order("SHOW VERSION")
                    return
                except OSError:
                    await asyncio.sleep(0.05)

    async def order(self, words: str) -> None:
        """Gives an order on the console of operators."""
        console = await asyncpg.connect(self.url("pgbouncer", OPERATOR))
        try:
            await console.execute(words)
        finally:
            console.terminate()

    @property
    def _owner(self) -> int | None:
        """As whom it runs if we are root, which it refuses to be: as whom Postgres does."""
        return Path(self.socket).stat().st_uid if os.geteuid() == 0 else None

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.touch(0o600)
        path.write_text(text)
        if self._owner is not None:
            os.chown(path, self._owner, -1)


@asynccontextmanager
async def pooling(pooler: Pooler) -> AsyncIterator[Pooler]:
    """Runs a pooler until the block ends."""
    pooler.start()
    try:
        await pooler.until_it_answers()
        yield pooler
    finally:
        pooler.end(signal.SIGQUIT)
