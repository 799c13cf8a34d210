"""What work takes: wall time, which other processes lengthen, processor time, memory."""

import re
import resource
import sys
import time
from pathlib import Path
from typing import Any


class Clock:
    """Begins to run when it is made; what this process did before is none of its business."""

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
    try:  # on Linux what getrusage says may be its parent's, from before the process began
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
