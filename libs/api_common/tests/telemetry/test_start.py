"""What a process loads when it starts."""

import subprocess
import sys


def test_who_exports_nothing_does_not_load_the_sdk_of_opentelemetry() -> None:
    program = "import sys, api_common.server; print([name for name in sys.modules if 'opentelemetry.sdk' in name])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
