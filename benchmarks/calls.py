"""What a call to a hospital costs beside its work: one warm process, or a process per call.

`python -m benchmarks.calls` has a federation of real processes on this machine (SuperLink, gate,
TLS, keys) do the same small run with both, in turn, and writes a section of RESULTS.md. On a
machine with nothing else to do.
"""

import json
import os
import re
import signal
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import markdown, write_section
from tests.federation import SMALL, Federation

REPEATS = 5
ROUNDS = 2
CALLS = 1 + 2 * ROUNDS + 2  # hello; training and validation; the tests before and after
WAYS = {"installed": "`fedcl hospital`", "brought": "a process per call"}
SETTINGS = [
    *(one for one in SMALL if not one.startswith("timeline.")),
    "timeline.stages=[[A]]", f"timeline.rounds={ROUNDS}",
]  # fmt: skip
TEXT = f"""## calls

One hospital and its server with gate, TLS and keys on one machine of {os.cpu_count()} cores, the
tiny phantom, {ROUNDS} rounds, {CALLS} calls, {REPEATS} times in turn; median (range). Wall: what an
exchange takes beside the work, per call. Processor: of the hospital's processes, the start of its
program and the work included, per call. All end with the same weights. Regenerate with
`python -m benchmarks.calls`.

"""


def measured(federation: Federation, way: str) -> tuple[float, float, str]:
    """Return seconds per call, of wall and of the hospital's processors, and a run's weights."""
    script = federation.own("A") / "start.sh"
    script.write_text(re.sub(r'^code=".*"', f'code="{way}"', script.read_text(), flags=re.M))
    federation.start("A")
    federation.until(lambda: federation.online() == 1)
    folder = federation.run(SETTINGS)
    federation.until((folder / "results.json").exists)
    results = json.loads((folder / "results.json").read_text())
    hospital = federation.processes.pop("A")
    os.killpg(hospital.pid, signal.SIGTERM)
    _, hospital.returncode, used = os.wait4(hospital.pid, 0)  # those that it has waited for as well
    federation.until(lambda: federation.online() == 0)
    wall = results["seconds"]["communicate"] / CALLS
    return wall, (used.ru_utime + used.ru_stime) / CALLS, results["weights_sha256"]


def cell(values: Sequence[float]) -> str:
    """Return the median of some seconds, and their range."""
    low, *_, high = ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure, and write the section."""
    walls, used, weights = defaultdict(list), defaultdict(list), set()
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(Path(folder) / "federation", ["A"])
        try:
            federation.open(registered=["A"], started=[])
            for _ in range(REPEATS):
                for way in WAYS:
                    wall, processor, digest = measured(federation, way)
                    print(f"{way}: wall {wall:.2f} s, processor {processor:.2f} s", flush=True)
                    walls[way].append(wall)
                    used[way].append(processor)
                    weights.add(digest)
        finally:
            federation.close()
    if len(weights) > 1:
        raise RuntimeError(f"the runs ended with different weights: {weights}")
    rows = [[title, cell(walls[way]), cell(used[way])] for way, title in WAYS.items()]
    write_section("calls", TEXT + "\n".join(markdown(["", "wall, s", "processor, s"], rows)))


if __name__ == "__main__":
    main()
