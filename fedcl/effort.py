"""What work takes: wall time, which other processes lengthen, processor time, memory."""

import resource
import sys
import time
from typing import Any


class Clock:
    """Begins to run when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def effort(self) -> dict[str, Any]:
        """Return wall and processor time since then, and the process's peak memory in bytes."""
        return {
            "seconds": time.perf_counter() - self._wall,
            "cpu": time.process_time() - self._cpu,
            "memory": peak_memory(),
        }


def peak_memory() -> int:
    """Return the most physical memory that this process has held, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
