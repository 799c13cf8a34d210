"""What work takes is what this process took."""

import subprocess
import sys

CHILD = "from fedcl.effort import peak_memory; print(peak_memory())"
PARENT = f"""
import subprocess, sys
held = bytearray(b"1") * 500_000_000
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""


def test_a_process_does_not_tell_the_memory_of_the_one_that_started_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT], capture_output=True, text=True, check=True
    )
    assert 1e6 < int(done.stdout) < 300e6
