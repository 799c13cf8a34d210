"""What a call to a hospital costs beside its work: one warm process, or a process per call.

`python -m benchmarks.calls` has a federation of real processes on this machine (SuperLink, gate,
TLS, keys) do the same small run at a hospital of either kind, in turn, and writes a section of
RESULTS.md. On a machine with nothing else to do.
"""

import json
import os
import re
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

import psutil

from benchmarks.running import markdown, write_section
from tests.federation import SMALL, Federation

REPEATS = 5
ROUNDS = 2
CALLS = 1 + 2 * ROUNDS + 2  # hello; training and validation; the tests before and after
WAYS = {"A": ("installed", "`fedcl hospital`"), "B": ("brought", "a process per call")}
SETTINGS = [
    *(one for one in SMALL if not one.startswith("timeline.")), f"timeline.rounds={ROUNDS}",
]  # fmt: skip
TEXT = f"""## calls

A hospital of either kind and its server with gate, TLS and keys on one machine of
{os.cpu_count()} cores, the tiny phantom, {ROUNDS} rounds, {CALLS} calls, {REPEATS} runs of each in
turn; median (range). Wall: what an exchange takes beside the work, per call. Processor: of the
hospital's processes, the work included, per call. Regenerate with `python -m benchmarks.calls`.

"""


@contextmanager
def processor(session: int) -> Iterator[list[float]]:
    """Yield what will hold the seconds that the processes of a session take meanwhile."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            for one in psutil.process_iter():
                try:
                    if os.getsid(one.pid) == session:
                        used = one.cpu_times()
                        last[one.pid] = used.user + used.system
                        first.setdefault(one.pid, last[one.pid] if not started.is_set() else 0.0)
                except (psutil.Error, OSError):
                    continue
            started.set()

    started, total = threading.Event(), []
    thread = threading.Thread(target=watch)
    thread.start()
    started.wait()
    yield total
    over.set()
    thread.join()
    total.append(sum(last[pid] - first[pid] for pid in last))


def measured(federation: Federation, site: str) -> tuple[float, float]:
    """Return seconds per call, of wall and of the hospital's processors."""
    with processor(federation.processes[site].pid) as used:
        folder = federation.run([*SETTINGS, f"timeline.stages=[[{site}]]"])
        federation.until((folder / "results.json").exists)
    results = json.loads((folder / "results.json").read_text())
    return results["seconds"]["communicate"] / CALLS, used[0] / CALLS


def cell(values: Sequence[float]) -> str:
    """Return the median of some seconds, and their range."""
    low, *_, high = ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Measure, and write the section."""
    walls, used = defaultdict(list), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        federation = Federation(Path(folder) / "federation", [*WAYS])
        for site, (way, _) in WAYS.items():
            script = federation.own(site) / "start.sh"
            script.write_text(
                re.sub(r'^code=".*"', f'code="{way}"', script.read_text(), flags=re.M)
            )
        try:
            federation.open(registered=[*WAYS], started=[*WAYS])
            federation.until(lambda: federation.online() == len(WAYS))
            for _ in range(REPEATS):
                for site, (way, _) in WAYS.items():
                    wall, processors = measured(federation, site)
                    print(f"{way}: wall {wall:.2f} s, processor {processors:.2f} s", flush=True)
                    walls[site].append(wall)
                    used[site].append(processors)
        finally:
            federation.close()
    rows = [[title, cell(walls[site]), cell(used[site])] for site, (_, title) in WAYS.items()]
    write_section("calls", TEXT + "\n".join(markdown(["", "wall, s", "processor, s"], rows)))


if __name__ == "__main__":
    main()
