"""Ports that one test holds are no other's, in this process or in another."""

import subprocess
import sys
from pathlib import Path

from tests.ports import mesh_offset
from tools.topology import ROOT, SAFE_OFFSETS, Mesh


def test_what_is_held_is_given_to_nobody_else() -> None:
    with mesh_offset() as one, mesh_offset() as two:
        program = "from tests.ports import mesh_offset\nwith mesh_offset() as offset: print(offset)"
        three = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert len({one, two, int(three.stdout)}) == 3


def test_no_outgoing_connection_is_given_one() -> None:
    for offset in SAFE_OFFSETS:
        assert not [
            port
            for port in Mesh(Path(), offset).ports.values()
            if not 1024 <= port < 32768 and not 60999 < port <= 65535
        ]
