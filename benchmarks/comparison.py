"""How well every method remembers, on equal terms: streams x methods x seeds x orders.

`python -m benchmarks.comparison` runs what has not been run yet, however often it is stopped, and
writes `benchmarks/RESULTS.md`, the table of the README and those of the pages on methods from what
there is. First the weights are tuned, as many values for
every method, on a seed that is in no table; then all run with the seeds and orders that are, once
with augmentation for everybody and once for nobody. `--stream phantom`, `--only ted souvenir`
restrict it, and then nothing is written; `--lanes 2` runs so many at a time, `--report` only
writes, from all runs below `--out`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.comparison_tables import write
from benchmarks.methods import METHODS
from benchmarks.plan import Work, planned
from benchmarks.running import ROOT, archive, check_whole, run_all, slug
from benchmarks.streams import STREAMS

ARCHIVE = ROOT / "benchmarks" / "comparison.tar.xz"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "comparison")
    parser.add_argument("--lanes", type=int, default=1, help="runs at a time")
    parser.add_argument("--stream", nargs="*", choices=STREAMS, metavar="STREAM")
    parser.add_argument("--only", nargs="*", choices=METHODS, default=[], metavar="METHOD")
    parser.add_argument("--report", action="store_true", help="run nothing, only write")
    given = parser.parse_args(arguments)
    part = given.stream is not None or bool(given.only)
    if given.report and part:
        parser.error("--report writes everything that is there; leave --stream and --only away")
    if given.report:
        check_whole(given.out, ARCHIVE)
    works = [
        Work(name, stream, given.out / slug(name)) for name, stream in STREAMS.items()
        if name in (given.stream or STREAMS)
    ]  # fmt: skip
    for work in () if given.report else works:
        if not work.stream.there:
            print(f"{work.name}: not run, since {work.stream.needs} is missing")
            continue
        for what, runs in planned(work, given.only):
            run_all(runs, given.lanes, f"{work.name}, {what}")
    if not (part or given.report):
        archive(given.out, ARCHIVE)
    if not part:
        write(works)


if __name__ == "__main__":
    main()
