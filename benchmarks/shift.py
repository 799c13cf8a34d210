"""How strong a shift of real images is to be: fixed before any method is run.

`python -m benchmarks.shift` runs `finetune` and `individual` on real images passed through
imaginary scanners (`shift=scanners`), strength by strength, on a seed that is in no other table,
and prints what fine-tuning then loses of what it has learned, and whether every site can still be
learned by itself. What is complete is not run again; `--report` runs nothing. `--only hippocampus`
restricts it, and further overrides may follow: `scenario.spacing=2 scenario.size=[24,32,24]` makes
it short.
"""

import argparse
from collections.abc import Mapping, Sequence
from os.path import relpath
from pathlib import Path
from statistics import fmean
from typing import Any

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.hippocampus import CONTINUAL
from benchmarks.running import ROOT, SUNNYBROOK, Planned, completed, markdown, run_all, slug

SEED = 10
STRENGTHS = "0,0.25,0.5,0.75,1,1.5"
TARGET = (1 / 4, 1 / 3)
"""The share that fine-tuning is to lose: less shows no method, more leaves nothing to keep."""
ORDERS = ("listed", "reversed")
RUNS = {"finetune": ORDERS, "individual": ORDERS[:1]}
"""By method, the orders of arrival; where every site learns alone there is none."""
HEADS = ("strength", "learned", "BWT", "lost", "individual")
HIPPOCAMPUS = relpath(SUNNYBROOK.parent / "Task04_Hippocampus", ROOT)
DATA: dict[str, tuple[str, ...]] = {
    "hippocampus": (
        "scenario=decathlon", f"scenario.root={HIPPOCAMPUS}",
        f"scenario.table={HIPPOCAMPUS}/groups.csv", "scenario.spatial_dims=3",
        "scenario.labels=[0,1,2]", "scenario.size=[48,64,48]", *CONTINUAL,
    ),
    "sunnybrook": ("scenario=folder", f"scenario.root={relpath(SUNNYBROOK, ROOT)}"),
}  # fmt: skip


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "shift")
    parser.add_argument("--lanes", type=int, default=1, help="runs at a time")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--only", choices=DATA, help="these data alone")
    parser.add_argument("--rounds", type=int, default=8, help="per stage")
    parser.add_argument("--steps", type=int, default=10, help="per site and round")
    parser.add_argument("--strengths", default=STRENGTHS)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    return parser.parse_args(arguments)


def planned(given: argparse.Namespace, data: str, strength: float) -> dict[str, list[Planned]]:
    """Return the runs of every method at a strength."""
    common = [
        *DATA[data], "shift=scanners", f"scenario.shift.strength={strength}", f"seed={SEED}",
        f"timeline.rounds={given.rounds}", f"learner.steps={given.steps}", "run.figures=false",
        *given.overrides,
    ]  # fmt: skip
    return {
        method: [
            (
                given.out / data / slug(method, order, f"{strength:g}", *given.overrides),
                [*common, f"strategy={method}", f"timeline.order={order}"],
            )
            for order in orders
        ]
        for method, orders in RUNS.items()
    }


def row(strength: float, runs: Mapping[str, Sequence[Planned]]) -> list[str]:
    """Return what has come of a strength: figures are means over the orders of arrival."""
    done = {name: [completed(folder) for folder, _ in own] for name, own in runs.items()}
    if None in [one for own in done.values() for one in own]:
        return [f"{strength:g}", *["-"] * (len(HEADS) - 1)]
    learned, bwt, rbwt = (mean(done["finetune"], one) for one in ("plasticity", "bwt", "rbwt"))
    alone, share = mean(done["individual"], "avg"), -rbwt
    told = f"**{share:.0%}**" if TARGET[0] <= share <= TARGET[1] else f"{share:.0%}"
    return [f"{strength:g}", f"{learned:.3f}", f"{bwt:+.3f}", told, f"{alone:.3f}"]


def mean(results: Sequence[Any], figure: str) -> float:
    """Return the mean of a figure over runs."""
    return fmean(one["metrics"][figure] for one in results)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and print a table for all data that are there."""
    given = options(arguments)
    strengths = [float(one) for one in given.strengths.split(",")]
    for data in [given.only] if given.only else DATA:
        plans = {strength: planned(given, data, strength) for strength in strengths}
        if not given.report:
            every = [run for by in plans.values() for runs in by.values() for run in runs]
            run_all(every, given.lanes, data)
        rows = [row(strength, runs) for strength, runs in plans.items()]
        print(f"{data}, seed {SEED}, {given.rounds} rounds of {given.steps} steps per stage\n")
        print("\n".join(markdown(HEADS, rows)))


if __name__ == "__main__":
    main()
