"""A container engine, told what to do as the chart tells Kubernetes: no root, no capabilities, nothing to write to."""

import asyncio
import json
import shlex
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

HARDENED: Final = ("--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
"""The restricted profile of the chart's pods, in an engine's words."""

_UNWANTED: Final = ("apt", "bash", "perl", "pip", "strip")
"""Programs that no process of ours starts, and that an intruder would."""
_COUNT_AUTHORITIES: Final = "import ssl; print(len(ssl.create_default_context().get_ca_certs()))"

_HEALTHY_SECONDS: Final = 60
_STOP_SECONDS: Final = 35


class CheckError(Exception):
    """An image does not do what it must."""


class Engine:
    """A container engine.

    Args:
        program: docker or podman.
        options: for each run.
    """

    def __init__(self, program: str, options: Sequence[str]) -> None:
        self._program = program
        self._options = options

    async def ask(self, *words: str) -> str:
        """Returns what a command printed.

        Raises:
            CheckError: it failed.
        """
        code, output = await self.attempt(*words)
        if code:
            raise CheckError(f"{self._program} {shlex.join(words)}\nended with {code}:\n{output[-3000:]}")
        return output.strip()

    async def attempt(self, *words: str) -> tuple[int, str]:
        """Returns how a command ended, and what it printed."""
        pipe, same = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        process = await asyncio.create_subprocess_exec(self._program, *words, stdout=pipe, stderr=same)
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def run(self, image: str, *words: str, options: Sequence[str]) -> tuple[int, str]:
        """Runs a container to its end, and returns how it ended and what it printed."""
        name = _a_name()
        try:
            _, output = await self.attempt("run", "--name", name, *HARDENED, *self._options, *options, image, *words)
            return await self._inspect(name, "State", "ExitCode"), output
        finally:
            await self.attempt("rm", "--force", name)

    @asynccontextmanager
    async def running(self, image: str, *, options: Sequence[str]) -> AsyncIterator[str]:
        """Yields the name of a container that is healthy, stops it, and expects a good end of it.

        Raises:
            CheckError: it does not become healthy, may do what it must not, or ends badly.
        """
        name = _a_name()
        await self.ask("run", "--detach", "--name", name, *HARDENED, *self._options, *options, image)
        try:
            await self._become_healthy(name)
            user = await self.ask("exec", name, "id", "-u")
            code, _ = await self.attempt("exec", name, "touch", "/app/written")
            if user == "0" or code == 0:
                raise CheckError(f"{image} runs as user {user}, and writing into it ended with {code}")
            _, found = await self.attempt("exec", name, "sh", "-c", "command -v " + "; command -v ".join(_UNWANTED))
            if found:
                raise CheckError(f"{image} has {found}")
            if await self.ask("exec", name, "python", "-c", _COUNT_AUTHORITIES) == "0":
                raise CheckError(f"{image} knows no public authority: no issuer behind https could be asked")
            yield name
            await self.ask("stop", "-t", str(_STOP_SECONDS), name)
            ended = await self._inspect(name, "State", "ExitCode")
            if ended != 0:
                raise CheckError(f"{image} ended with {ended} after SIGTERM:\n{await self.ask('logs', name)}")
        finally:
            await self.attempt("rm", "--force", name)

    async def _become_healthy(self, name: str) -> None:
        # By hand: podman needs systemd to do it on its own.
        command = (await self._inspect(name, "Config", "Healthcheck", "Test"))[1:]
        with suppress(TimeoutError):
            async with asyncio.timeout(_HEALTHY_SECONDS):
                while await self._inspect(name, "State", "Running"):
                    if (await self.attempt("exec", name, *command))[0] == 0:
                        return
                    await asyncio.sleep(0.2)
        raise CheckError(f"{name} does not become healthy:\n{(await self.ask('logs', name))[-3000:]}")

    async def _inspect(self, name: str, *path: str) -> Any:
        (value,) = json.loads(await self.ask("container", "inspect", name))
        for key in path:
            value = value[key]
        return value


def _a_name() -> str:
    return f"ameide-check-{uuid.uuid4().hex[:8]}"
