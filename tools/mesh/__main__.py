"""The commands of the local mesh: `python -m tools.mesh up | down | status | reset | migrate`."""

from tools.mesh.commands import main

main()
