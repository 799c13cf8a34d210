"""Real processes for tests: started, waited for, killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 120.0  # seconds; a test that waits so long has failed


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def snapshot(folder: Path, name: str) -> Callable[[], bool]:
    return lambda: (folder / "checkpoint" / name).exists()
