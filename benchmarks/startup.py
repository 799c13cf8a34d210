"""How long until fedcl answers, beside `python -c "import torch"`: `python benchmarks/startup.py`.

Commands alternate; with `--beside FOLDER` those of another checkout take part, run by the same
Python. Medians of wall seconds, and of processor seconds, which other jobs do not lengthen.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "fedcl --help": ["-m", "fedcl", "--help"],
    "fedcl compare --help": ["-m", "fedcl", "compare", "--help"],
    "no such key (learnr.lr=1)": ["simulate.py", "learnr.lr=1"],
    "bad value (learner.lr=-1)": ["simulate.py", "learner.lr=-1"],
    "bad value of a strategy": ["simulate.py", "strategy=lwf", "strategy.kd=-1"],
}
BARE = ["-c", "import torch"]


def seconds(arguments: list[str], place: Path) -> tuple[float, float]:
    """Return wall and processor seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    environment = os.environ | {"PYTHONPATH": str(place)}
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=place, env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, used


def first_round(place: Path) -> tuple[float, float]:
    """Return the seconds until `make simulate` has met its hospitals and ended its first round."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "simulate.py", f"run.dir={run}", "tracking.enabled=false"]
        began, met, done = time.perf_counter(), 0.0, 0.0
        process = subprocess.Popen(
            command, cwd=place, env=os.environ | {"PYTHONPATH": str(place)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and not done:
            time.sleep(0.02)
            if not met and (run / "config.yaml").exists():
                met = time.perf_counter() - began
            if (run / "log.txt").exists() and "round 1:" in (run / "log.txt").read_text():
                done = time.perf_counter() - began
        process.terminate()
        process.wait()
    return met, done


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--simulate", action="store_true", help="also until the first round")
    given = parser.parse_args()
    places = {"here": ROOT} | ({"beside": given.beside.resolve()} if given.beside else {})
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(given.repeats):
        found.setdefault(("import torch", "here"), []).append(seconds(BARE, ROOT))
        for name, arguments in COMMANDS.items():
            for which, place in places.items():
                found.setdefault((name, which), []).append(seconds(arguments, place))
        for which, place in places.items() if given.simulate else ():
            found.setdefault(("simulate: met, round 1", which), []).append(first_round(place))
    bare = [median(one[i] for one in found["import torch", "here"]) for i in (0, 1)]
    print(f"{'':30} {'':8} {'wall':>7} {'ratio':>6} {'cpu':>7} {'ratio':>6}")
    for (name, which), times in found.items():
        wall, cpu = (median(one[i] for one in times) for i in (0, 1))
        ratios = wall / bare[0], cpu / bare[1]
        print(f"{name:30} {which:8} {wall:7.2f} {ratios[0]:6.2f} {cpu:7.2f} {ratios[1]:6.2f}")


if __name__ == "__main__":
    main()
