"""The runner's promises that need no whole mesh; those that do are in tests/e2e."""

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from api_common.db import DatabaseUrls

from tests.ports import mesh_offset
from tools.mesh import commands, postgres, preparation, processes
from tools.topology import PROCESSES, SERVICES, Mesh, MeshError

Kept = subprocess.Popen[str]


@pytest.fixture
def mesh() -> Iterator[Mesh]:
    # Not below pytest's folder: every pytest that root starts closes it to Postgres, which runs as another user.
    with tempfile.TemporaryDirectory(prefix="mesh") as folder, mesh_offset() as offset:
        result = Mesh(Path(folder), offset)
        result.run.mkdir()
        result.log("users").parent.mkdir()
        yield result


@pytest.fixture
def kept(mesh: Mesh) -> Iterator[Callable[[str], Kept]]:
    started: list[Kept] = []

    def start(script: str) -> Kept:
        line = processes.kept(mesh, "users", ["sh", "-c", script])
        process = subprocess.Popen(line, shell=True, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


class TestPorts:
    def test_names_port_owner_and_remedy(self, mesh: Mesh) -> None:
        with socket.create_server(("127.0.0.1", mesh.ports["agents grpc"])), pytest.raises(MeshError) as refusal:
            processes.check_ports(mesh)
        message = str(refusal.value)
        assert f"Port {mesh.ports['agents grpc']} (agents grpc) is taken by `" in message
        assert f"(pid {os.getpid()})" in message
        assert "make up PORT_OFFSET=" in message

    def test_names_two_of_its_own_that_have_one_port(self, mesh: Mesh) -> None:
        mesh.ports["agents grpc"] = mesh.ports["users grpc"]
        with pytest.raises(MeshError, match=rf"^users grpc and agents grpc have one port, {mesh.ports['users grpc']}"):
            processes.check_ports(mesh)

    def test_passes_when_all_are_free(self, mesh: Mesh) -> None:
        processes.check_ports(mesh)

    def test_of_shared_limits_may_be_taken_without_them(self, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", mesh.ports["limits operations"])):
            processes.check_ports(mesh)
            monkeypatch.setenv("LIMITS", "shared")
            with pytest.raises(MeshError, match="limits operations"):
                processes.check_ports(mesh)

    @pytest.mark.parametrize("offset", ["x", "1.5", "60000", "-9000"])
    def test_refuses_a_useless_offset(self, monkeypatch: pytest.MonkeyPatch, offset: str) -> None:
        monkeypatch.setenv("PORT_OFFSET", offset)
        with pytest.raises(MeshError, match="PORT_OFFSET"):
            Mesh.from_environment()

    def test_moves_every_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT_OFFSET", "100")
        moved = Mesh.from_environment().ports
        assert {name: port - 100 for name, port in moved.items()} == Mesh(Path(), 0).ports


class TestPostgres:
    def test_keeps_its_data_over_a_restart(self, mesh: Mesh) -> None:
        postgres.start(mesh.postgres)
        first = postgres.pid(mesh.postgres)
        postgres.stop(mesh.postgres)
        assert postgres.pid(mesh.postgres) is None
        postgres.start(mesh.postgres)
        try:
            assert postgres.pid(mesh.postgres) not in {None, first}
        finally:
            postgres.stop(mesh.postgres)

    def test_names_the_remedy_for_broken_data(self, mesh: Mesh) -> None:
        mesh.postgres.mkdir()
        (mesh.postgres / "PG_VERSION").write_text("18\n")
        with pytest.raises(MeshError, match="make reset"):
            postgres.start(mesh.postgres)

    def test_is_not_fooled_by_a_number_that_another_program_has(self, mesh: Mesh) -> None:
        mesh.postgres.mkdir()
        (mesh.postgres / "postmaster.pid").write_text(f"{os.getpid()}\n")
        assert postgres.pid(mesh.postgres) is None


class TestDatabases:
    def test_are_where_the_environment_says(self, mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
        for service in SERVICES:
            monkeypatch.setenv(f"DATABASE_URL_{service.name.upper()}", f"postgresql://app@db.example/{service.name}")
        monkeypatch.setenv("DATABASE_OWNER_URL_USERS", "postgresql://owner@db.example/users")
        urls = preparation.ensure_databases(mesh)
        assert urls["users"] == DatabaseUrls("postgresql://app@db.example/users", "postgresql://owner@db.example/users")
        assert urls["agents"].owner == urls["agents"].application == "postgresql://app@db.example/agents"
        assert postgres.pid(mesh.postgres) is None


class TestReset:
    def test_removes_our_state_and_nothing_else(self, mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
        for name in commands.STATE:
            (mesh.folder / name).mkdir(exist_ok=True)
        (mesh.folder / "thesis.txt").write_text("mine")
        commands.reset(mesh)
        assert [path.name for path in mesh.folder.iterdir()] == ["thesis.txt"]
        assert "make up" in capsys.readouterr().out


class TestStatusAndDown:
    def test_say_when_nothing_runs(self, mesh: Mesh, capsys: pytest.CaptureFixture[str]) -> None:
        commands.status(mesh)
        commands.down(mesh)
        printed = capsys.readouterr().out
        assert printed.count(" no\n") == len(PROCESSES) + 1
        assert "No mesh is running." in printed

    def test_end_what_a_killed_runner_left(self, mesh: Mesh, kept: Callable[[str], Kept]) -> None:
        process = kept("echo up; sleep 1000")
        assert process.stdout is not None
        assert next(process.stdout) == "up\n"
        commands.down(mesh)
        assert process.wait(timeout=10) != 0

    def test_leave_alone_who_inherited_a_process_id(self, mesh: Mesh) -> None:
        pid_file = mesh.run / "users.pid"
        pid_file.write_text(str(os.getpid()))
        os.utime(pid_file, (1, 1))
        assert list(processes.pids(mesh)) == []


class TestKept:
    def test_ends_with_its_command_before_the_mesh_is_ready(self, kept: Callable[[str], Kept]) -> None:
        assert kept("exit 3").wait(timeout=10) == 3

    def test_runs_its_command_again_once_the_mesh_is_ready(self, mesh: Mesh, kept: Callable[[str], Kept]) -> None:
        processes.ready_mark(mesh).touch()
        lines = kept("echo up; exit 3").stdout
        assert lines is not None
        assert [next(lines) for _ in range(3)] == [
            "up\n",
            "users ended with exit code 3; starting it again\n",
            "up\n",
        ]

    def test_sees_its_command_through_the_drain(self, mesh: Mesh, kept: Callable[[str], Kept]) -> None:
        processes.ready_mark(mesh).touch()
        process = kept('trap "echo drained; exit 0" TERM; echo up; while :; do sleep 0.1; done')
        assert process.stdout is not None
        assert next(process.stdout) == "up\n"
        processes.stop(mesh, ["users"])
        assert process.communicate(timeout=10)[0] == "drained\n"
        assert process.returncode == 0
