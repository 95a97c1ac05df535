"""The attacks of `make attack`, in short: a polite tenant works meanwhile, and none of its calls fails.

The attackers run in this process, so nothing is said about times.
"""

import asyncio
import secrets
from types import ModuleType

import pytest

from bench.attack import bodies, connections, frames, headers, queries, storage, tokens, watches
from bench.attack.attacker import Target, play
from bench.attack.catalog import ATTACKS
from bench.attack.polite import Polite, failures
from bench.attack.run import play as play_in_processes
from tools.topology import Mesh

_SECONDS = 1.0
_AT_ONCE = 3
SUBJECTS = (frames, connections, bodies, queries, tokens, storage, watches, headers)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda one: one.__name__.rsplit(".", 1)[1])
async def test_a_polite_tenant_does_not_notice(mesh: Mesh, subject: ModuleType) -> None:
    target = Target("127.0.0.1", mesh.ports["edge http"], str(mesh.issuer))
    costs, ended = [], asyncio.Event()
    async with Polite(mesh, f"polite-{secrets.token_hex(4)}") as polite:
        calling = asyncio.create_task(polite.run(ended))
        for start in range(0, len(subject.ATTACKS), _AT_ONCE):
            some = subject.ATTACKS[start : start + _AT_ONCE]
            costs += await asyncio.gather(*(play(one, target, _SECONDS) for one in some))
        ended.set()
        await calling
    assert not failures(polite.calls)
    assert polite.calls
    for attack, cost in zip(subject.ATTACKS, costs, strict=True):
        assert cost.calls, f"{attack.name} sent nothing: {cost.answers}"


async def test_an_attacker_in_its_own_process_has_a_row(mesh: Mesh) -> None:
    named: list[str] = []
    rows = await play_in_processes(mesh, [ATTACKS["empty DATA frames"]], share=0.5, quiet_seconds=1, say=named.append)
    assert named == [row.name for row in rows] == ["empty DATA frames"]
    assert rows[0].cost.calls
    assert rows[0].cost.sent
    assert rows[0].processes["edge"].peak_mib > 1
    # A p99 and a readiness that must answer within a second are times, which are not for a test to judge.
    assert not rows[0].failures
    assert not rows[0].ended
