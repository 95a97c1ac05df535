"""The benchmark still runs; what it measures is for `make bench` to say, never for a test."""

import subprocess
import sys


def test_measures_every_contender() -> None:
    command = [sys.executable, "-m", "tests.load.bench", "--rounds", "1", "--count", "20"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=55)
    first_words = {line.split()[0] for line in run.stdout.splitlines() if line.strip()}
    assert {"echo", "driver", "users", "Goal:"} <= first_words, run.stderr
