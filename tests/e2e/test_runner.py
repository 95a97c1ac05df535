"""The commands of the running mesh."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.e2e.started import Command
from tools.mesh import processes
from tools.topology import PROCESSES, Mesh


class TestUp:
    def test_says_that_the_mesh_runs_and_changes_nothing(self, mesh: Mesh, command: Command) -> None:
        before = list(processes.pids(mesh))
        again = command("tools.mesh", "up")
        assert again.returncode == 0
        assert again.stdout.startswith("The mesh is already running.")
        assert mesh.url in again.stdout
        assert f"$(make -s token PORT_OFFSET={mesh.port_offset})" in again.stdout
        assert list(processes.pids(mesh)) == before

    def test_of_another_mesh_names_the_port_and_starts_nothing(
        self, mesh: Mesh, command: Command, tmp_path: Path
    ) -> None:
        refused = command("tools.mesh", "up", AMEIDE_LOCAL_DIR=str(tmp_path))
        assert refused.returncode == 1
        assert f"Port {mesh.ports['edge http']} (edge http) is taken by `" in refused.stderr
        assert "PORT_OFFSET=" in refused.stderr
        assert list(processes.pids(Mesh(tmp_path, mesh.port_offset))) == []


class TestStatus:
    def test_shows_every_process_with_its_port(self, mesh: Mesh, command: Command) -> None:
        header, *rows = command("tools.mesh", "status").stdout.splitlines()
        assert header.split() == ["PROCESS", "PID", "PORT", "READY"]
        table = {name: (pid, ready) for name, pid, _, ready in map(str.split, rows)}
        pids = {name: str(process.pid) for name, process in processes.pids(mesh)}
        assert {name: table[name] for name in PROCESSES} == {name: (pids[name], "yes") for name in PROCESSES}
        assert table["postgres"][1] == "yes"


class TestMigrate:
    def test_of_a_service_finds_its_schema_current(self, mesh: Mesh, command: Command) -> None:
        """Of one for all: each begins with the same line, and the start of the mesh has migrated all of them."""
        url = f"postgresql://users_owner@/users?host={mesh.postgres}"
        migrated = command("users_service", "migrate", USERS_DATABASE_OWNER_URL=url)
        assert migrated.returncode == 0, migrated.stderr


class TestKilledService:
    def test_comes_back_with_its_data(self, mesh: Mesh, open_client: Callable[..., httpx.Client]) -> None:
        ada = open_client("killed", "admin")
        created = ada.post("/v1/users", json={"displayName": "Grace", "email": "grace@navy.example"}).json()
        killed = dict(processes.pids(mesh))["users"]
        os.kill(killed.pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (answer := ada.get(f"/v1/users/{created['id']}")).status_code != 200:
            assert answer.status_code == 503
            assert time.monotonic() < deadline
        assert answer.json() == created
        assert dict(processes.pids(mesh))["users"].pid != killed.pid


class TestDemo:
    def test_tells_its_story_to_the_end(self, command: Command) -> None:
        told = command("tools.mesh.demo")
        assert told.returncode == 0, told.stdout + told.stderr
        assert told.stdout.endswith("\nAll as expected.\n")
