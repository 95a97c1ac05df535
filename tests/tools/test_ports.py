"""Ports that one test holds are no other's, in this process or in another."""

import subprocess
import sys

from tests.ports import mesh_offset
from tools.topology import ROOT


def test_what_is_held_is_given_to_nobody_else() -> None:
    with mesh_offset() as one, mesh_offset() as two:
        program = "from tests.ports import mesh_offset\nwith mesh_offset() as offset: print(offset)"
        three = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
        assert len({one, two, int(three.stdout)}) == 3
