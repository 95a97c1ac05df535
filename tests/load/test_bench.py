"""The benchmark still runs; what it measures is for `make bench` to say, never for a test."""

import subprocess
import sys

import pytest


@pytest.mark.timeout(240)
def test_every_contender_of_the_repository_answers_every_call_right() -> None:
    options = ["--rounds", "1", "--paced", "0", "--scale", "0", "--only", "echo; driver; ours"]
    command = [sys.executable, "-m", "tests.load.bench", *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line.split()[0] for line in run.stdout.splitlines() if line.strip()]
    assert [lines.count(name) for name in ("echo", "driver", "ours")] == [1, 6, 7], run.stderr
