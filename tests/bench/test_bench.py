"""The benchmark still runs; what it measures is for `make bench` to say, never for a test."""

import subprocess
import sys

import pytest


@pytest.mark.timeout(240)
def test_asks_the_service_and_checks_its_answers() -> None:
    options = [
        "--rounds",
        "1",
        "--paced",
        "0",
        "--scale",
        "0",
        "--only",
        "echo; ours; ours, bare edge, gRPC",
        "--works",
        "GetUser; CreateUser",
    ]
    command = [sys.executable, "-m", "bench.bench", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split()[0] for line in run.stdout.splitlines() if line.strip()]
    assert [lines.count(name) for name in ("echo", "ours", "ours,", "Load")] == [1, 2, 2, 2], run.stderr
