"""Plays attacks against a mesh of this machine while a polite tenant works: `make attack ONLY="rapid reset; idle"`.

It prints a row for each attack, then what the mesh did not hold. It fails if a call of the polite tenant failed, its
p99 rose above three times, readiness did not answer, or a process ended. It uses the running mesh, or starts one.
"""

import argparse
import asyncio
import dataclasses
import functools
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.attack import samples, table
from bench.attack.attacker import Attack, Cost, Target
from bench.attack.catalog import ATTACKS
from bench.attack.polite import Polite, failures, p99
from tools.edge.build import ENVOY
from tools.mesh import processes
from tools.mesh.commands import running_mesh
from tools.topology import ROOT, Mesh

QUIET_SECONDS: Final = 3
"""Before and after each attack."""
RATES: Final = {
    "address": {"any": 500, "anonymous": 100},
    "READ": {"tenant": 150, "principal": 100},
    "WRITE": {"tenant": 60, "principal": 40},
    "EXPENSIVE": {"tenant": 20, "principal": 10},
    "bytes": {"tenant": 8388608, "principal": 4194304},
}
"""What two cores do for one tenant beside the others: the edge must not let in more than its services carry."""

_WARM_UP_SECONDS: Final = 5
_START_SECONDS: Final = 30
"""An attacker gets so long to start, and as long to end."""


async def play(
    mesh: Mesh,
    attacks: Sequence[Attack],
    *,
    share: float = 1,
    quiet_seconds: float = QUIET_SECONDS,
    say: Callable[[str], object],
) -> list[table.Row]:
    """Plays the attacks one after the other, each for ``share`` of its time, and says its name."""
    target = Target("127.0.0.1", mesh.ports["edge http"], str(mesh.issuer))
    sampler, ended, spans = samples.Sampler(mesh), asyncio.Event(), []
    async with Polite(mesh, f"polite-{secrets.token_hex(4)}") as polite:
        with sampler.running():
            calling = asyncio.create_task(polite.run(ended))
            await asyncio.sleep(min(_WARM_UP_SECONDS, quiet_seconds))
            before = time.monotonic()
            await asyncio.sleep(quiet_seconds)
            for attack in attacks:
                say(attack.name)
                calm = time.monotonic()
                begin, cost = await _attack(attack, target, attack.seconds * share)
                end = time.monotonic()
                await asyncio.sleep(quiet_seconds)
                spans.append((attack, cost, before, calm, begin, end, time.monotonic()))
                before = end
            ended.set()
            await calling
    # Now all calls have been answered.
    return [_row(polite, sampler, *span) for span in spans]


async def _attack(attack: Attack, target: Target, seconds: float) -> tuple[float, Cost]:
    """Plays one attack in a process of its own; returns when it began, too."""
    command = [
        sys.executable,
        "-m",
        "bench.attack.attacker",
        attack.name,
        str(seconds),
        json.dumps(dataclasses.asdict(target)),
    ]
    pipe = asyncio.subprocess.PIPE
    attacker = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe, start_new_session=True)
    assert attacker.stdout is not None
    begin = time.monotonic()
    try:
        async with asyncio.timeout(_START_SECONDS):
            await attacker.stdout.readline()
        begin = time.monotonic()
        async with asyncio.timeout(seconds + _START_SECONDS):
            output, _ = await attacker.communicate(b"go\n")
    except TimeoutError:
        return begin, Cost(answers=Counter({"the attacker did not end": 1}))
    finally:
        if attacker.returncode is None:
            attacker.kill()
            await attacker.wait()
    if attacker.returncode:
        return begin, Cost(answers=Counter({"the attacker failed": 1}))
    found = json.loads(output)
    return begin, Cost(found["sent"], found["calls"], Counter(found["answers"]))


def _row(
    polite: Polite,
    sampler: samples.Sampler,
    attack: Attack,
    cost: Cost,
    before: float,
    calm: float,
    begin: float,
    end: float,
    after: float,
) -> table.Row:
    seen = sampler.between(begin, after)
    return table.Row(
        attack.name,
        cost,
        failures(polite.between(begin, after)),
        p99(polite.between(before, calm)),
        p99(polite.between(begin, end)),
        p99(polite.between(end, after)),
        samples.usage(seen),
        samples.unready(seen),
        samples.ended(seen),
    )


@contextmanager
def any_mesh() -> Iterator[Mesh]:
    """Yields the running mesh, or one that it starts and removes."""
    if mesh := running_mesh(Mesh.from_environment()):
        yield mesh
        return
    with tempfile.TemporaryDirectory(prefix="attack") as folder:
        # Postgres runs as another user.
        Path(folder).chmod(0o755)
        mesh = Mesh(Path(folder) / "mesh", processes.free_offset())
        edge = shutil.copytree(ENVOY / "local", Path(folder) / "edge")
        decided = json.loads((edge / "edge.json").read_text())
        (edge / "edge.json").write_text(json.dumps(decided | {"rates": RATES}))
        environment = {
            **os.environ,
            "AMEIDE_LOCAL_DIR": str(mesh.folder),
            "EDGE_ENVIRONMENT": str(edge),
            "PORT_OFFSET": str(mesh.port_offset),
            "DETACH": "1",
        }
        command = [sys.executable, "-m", "tools.mesh"]
        subprocess.run([*command, "up"], env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        try:
            yield mesh
        finally:
            subprocess.run([*command, "down"], env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def chosen(only: str) -> list[Attack]:
    """Returns the attacks that one of the words names, or all; words are separated by semicolons."""
    words = [word.strip().lower() for word in only.split(";") if word.strip()]
    return [one for name, one in ATTACKS.items() if not words or any(word in name.lower() for word in words)]


def main() -> None:
    """Prints the table; exits with 1 if the mesh did not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack.run", description="Attacks, and who suffers.")
    parser.add_argument("--only", default="", help="parts of names, separated by semicolons (default: all)")
    parser.add_argument("--share", type=float, default=1, help="how much of each attack's time (default: 1)")
    options = parser.parse_args()
    attacks = chosen(options.only)
    if not attacks:
        raise SystemExit(f"No attack has such a name; there are: {'; '.join(ATTACKS)}.")
    with any_mesh() as mesh:
        say = functools.partial(print, file=sys.stderr, flush=True)
        rows = asyncio.run(play(mesh, attacks, share=options.share, say=say))
    print(table.header(), *rows, sep="\n")
    found = table.objections(rows)
    print("\n" + ("\n".join(found) if found else "The polite tenant noticed nothing."))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
