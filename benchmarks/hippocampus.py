"""Continual learning on real volumes: the hippocampus of the Medical Segmentation Decathlon.

`python -m benchmarks.hippocampus ROOT --out FOLDER` runs every strategy on Task04 in `ROOT`, whose
`groups.csv` says which of three sites holds a case, with three seeds and two orders of arrival.
What is complete is not run again, what was begun goes on. `--only lwf ted` restricts it, `--pooled`
adds nnU-Net's recipe on all cases at once (`--only --pooled` runs it alone). `--table FOLDER` runs
nothing and prints tables of what is there: that alone needs statsmodels. `--write` puts them into
RESULTS.md.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import ROOT, check_whole, finished, processes, simulate, slug, write_section
from fedcl.files import write_atomically

if TYPE_CHECKING:  # what tables need is not there wherever runs are made
    from fedcl.analysis.runs import Group, Run
    from fedcl.analysis.statistics import Line

REFERENCE = "finetune"
ORDERS = ("listed", "reversed")
STRATEGIES: dict[str, tuple[float, tuple[str, ...]]] = {
    "finetune": (1, ("strategy=finetune",)),
    "lwf": (1.1, ("strategy=lwf",)),
    "ted": (2, ("strategy=ted",)),
    "ewc": (1.1, ("strategy=ewc",)),
    "replay": (2.1, ("strategy=replay",)),
    "souvenir": (2.2, ("strategy=souvenir",)),
    "joint": (2.1, ("strategy=joint",)),
    "joint, light": (3, ("strategy=joint", "augment=light")),
}
"""By name: roughly how many times as long as `finetune` it takes, and what makes it."""
CONTINUAL = ("model.channels=[16,32,64,128]", "learner.lr=[0.002]", "learner.batch_size=4")
POOLED = (
    "strategy=joint",
    "timeline.stages=[[uint8,float,float-large]]",
    "timeline.centralised=true",
    "model=dynunet",
    "augment=nnunet",
    "schedule=poly",
    "learner.clip=12",  # nnU-Net's
    "optimiser.keep=true",  # from round to round
)
RATES = {"sgd": 0.01, "adam": 0.002}
"""Of the pooled run, by optimiser; SGD has nnU-Net's rate and momentum (0.99, Nesterov)."""
PUBLISHED = {"anterior": "0.90", "posterior": "0.89", "steps": "250000", "batch": "9"}
"""By nnU-Net (Isensee et al., Nature Methods 2021), on the challenge's test cases."""


ABOUT = """## hippocampus

Real volumes: 200 cases of the Decathlon's Task04 (T1 MRI, about 35 x 50 x 35 voxels of 1 mm),
whole, padded to 48 x 64 x 48. Its three groups, by how intensities are stored, arrive one after
another, in the order uint8, float, float-large and the other way round. All are of one hospital,
and after normalising per volume little is forgotten: this shows that methods work on volumes, not
how well they remember. `replay` keeps 8 whole volumes per hospital. U-Net of 16 to 128 channels,
bfloat16 on one H200 (torch 2.11.0), fifteen runs at a time: `s` is for comparison within the table
alone.
`benchmarks/hippocampus.tar.xz` holds what every run left. Regenerate with
`python -m benchmarks.hippocampus ../shared/data/Task04_Hippocampus --rounds 3`, the pooled run with
`--only --pooled --seeds 0 --pooled-steps 1000 --pooled-rounds 1 --pooled-batch 4 --optimiser adam`.
"""


@dataclass(frozen=True)
class Planned:
    """A run to be made: its folder, its overrides, and whether it is to be begun early."""

    folder: Path
    overrides: tuple[str, ...]
    cost: float


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", help="Task04_Hippocampus with groups.csv")
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "hippocampus")
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rounds", type=int, default=8, help="per stage")
    parser.add_argument("--steps", type=int, default=40, help="per site and round")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--only", nargs="*", choices=STRATEGIES, metavar="NAME")
    parser.add_argument("--pooled", action="store_true", help="nnU-Net's recipe as well")
    parser.add_argument("--pooled-steps", type=int, default=2000, help="in all")
    parser.add_argument("--pooled-rounds", type=int, default=4, help="momentum is kept over them")
    parser.add_argument("--pooled-batch", type=int, default=9, help="nnU-Net's own is 9")
    parser.add_argument("--pooled-filters", default="16,32,64,128", help="channels per level")
    parser.add_argument("--optimiser", default="sgd", choices=RATES, help="of the pooled run")
    parser.add_argument("--table", type=Path, metavar="FOLDER", help="only print what is there")
    parser.add_argument("--write", action="store_true", help="the tables into RESULTS.md")
    given = parser.parse_args(arguments)
    if given.root is None and given.table is None:
        parser.error("give ROOT, or --table FOLDER")
    return given


def planned(given: argparse.Namespace) -> list[Planned]:
    """Return all runs that are asked for, the longest first."""
    root = relpath(given.root, ROOT)  # where simulate.py runs; no path of this machine is kept
    frame = (
        "scenario=decathlon",
        f"scenario.root={root}",
        f"scenario.table={root}/groups.csv",
        "scenario.spatial_dims=3",
        "scenario.labels=[0,1,2]",
        "scenario.size=[48,64,48]",  # the largest of all sites: padded alike everywhere
        f"learner.device={given.device}",
        "run.figures=false",
    )
    budget = (*CONTINUAL, f"learner.steps={given.steps}", f"timeline.rounds={given.rounds}")
    each = -(-given.pooled_steps // given.pooled_rounds)
    recipe = (
        *POOLED,
        f"learner.steps={each}",
        f"timeline.rounds={given.pooled_rounds}",
        f"learner.batch_size={given.pooled_batch}",
        f"model.filters=[{given.pooled_filters}]",
        f"optimiser={given.optimiser}",
        f"learner.lr={RATES[given.optimiser]}",
    )
    title = f"{given.optimiser} {given.pooled_rounds}x{each} {given.pooled_filters}"
    pool = given.out / "pooled" / slug(title, f"batch{given.pooled_batch}")
    runs = []
    for seed in map(int, given.seeds.split(",")):
        here = (*frame, f"seed={seed}")
        for name in STRATEGIES if given.only is None else given.only:
            cost, own = STRATEGIES[name]
            for order in ORDERS:
                folder = given.out / slug(name) / f"seed{seed}-{order}"
                overrides = (*here, f"timeline.order={order}", *budget, *own)
                runs.append(Planned(folder, overrides, cost))
        if given.pooled:
            runs.append(Planned(pool / f"seed{seed}", (*here, *recipe), float("inf")))
    return sorted(runs, key=lambda run: -run.cost)


def timed(run: Planned) -> float:
    """Make a run and return its seconds."""
    began = time.perf_counter()
    simulate((run.folder, list(run.overrides)))
    return time.perf_counter() - began


def run_all(runs: Sequence[Planned], out: Path, parallel: int) -> int:
    """Make the runs that are not complete, tell of each as it ends, and return how many failed."""
    todo = [run for run in runs if finished(run.folder) is None]
    print(f"{len(todo)} runs to make, {len(runs) - len(todo)} are complete", flush=True)
    failed = 0
    with processes(parallel) as pool:
        started = {pool.submit(timed, run): run for run in todo}
        try:
            for number, done in enumerate(as_completed(started), start=1):
                name, error = relpath(started[done].folder, out), done.exception()
                failed += error is not None
                if error is not None:
                    print(error, file=sys.stderr, flush=True)
                told = "FAILED" if error is not None else f"{done.result():.1f} s"
                print(f"[{number}/{len(todo)}] {name}: {told}", flush=True)
        finally:  # interrupted: begin no more
            for one in started:
                one.cancel()
    return failed


def groups(places: Mapping[str, Path]) -> tuple[list["Group"], list[str]]:
    """Return the completed runs in every place under its name, and what was left out."""
    from fedcl.analysis.runs import Group
    from fedcl.analysis.sources import collect

    there = {name: collect([str(place)], "") for name, place in places.items() if place.is_dir()}
    lost = [f"left out: {reason}" for found in there.values() for reason in found.left_out]
    return [
        Group(name, sorted(found.runs, key=lambda run: run.block))
        for name, found in there.items()
        if found.runs
    ], lost


def judged(run: "Run", score: str) -> "Run":
    """Return a run as if it were judged by another score, by which more need not be better."""
    from fedcl.analysis.architectures import scored
    from fedcl.server.metrics import summary

    one = scored(run, score).results
    figures = summary(one.matrix, one.stages, one.sites)
    return replace(run, results=replace(one, metrics=figures))


def lines_of(chosen: Sequence["Group"], reference: str) -> list[dict[str, "Line"]]:
    """Return every group's lines, best AVG first: by Dice, and by each of the other scores."""
    from fedcl.analysis.statistics import table

    views = {"dice": chosen} | {
        score: [replace(one, runs=[judged(run, score) for run in one.runs]) for one in chosen]
        for score in ("dice_1", "dice_2", "hd95")
    }
    lines = {score: table(view, reference) for score, view in views.items()}
    by_name = {score: {line.name: line for line in found} for score, found in lines.items()}
    return [{score: by_name[score][best.name] for score in views} for best in lines["dice"]]


def cell(line: "Line", figure: str = "avg", form: str = ".3f") -> str:
    """Return the mean over runs ± the sample standard deviation."""
    mean, std = line.mean[figure], line.std[figure]
    if mean is None:
        return "-"
    return format(mean, form) + ("" if std is None else f" ± {std:{form.lstrip('+')}}")


def difference(line: "Line") -> str:
    """Return how far a strategy is above the reference, and the interval over seeds."""
    return "" if line.difference is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*line.difference)


HEADS: dict[str, Callable[[Mapping[str, "Line"]], str]] = {
    "method": lambda by: by["dice"].name,
    "runs": lambda by: str(by["dice"].runs),
    "AVG": lambda by: cell(by["dice"]),
    "BWT": lambda by: cell(by["dice"], "bwt", "+.3f"),
    "anterior": lambda by: cell(by["dice_1"]),
    "posterior": lambda by: cell(by["dice_2"]),
    "HD95 (mm)": lambda by: cell(by["hd95"], form=".2f"),
    "worst site": lambda by: cell(by["dice"], "worst_site"),
    f"AVG - {REFERENCE} [95 %]": lambda by: difference(by["dice"]),
    "s": lambda by: f"{by['dice'].seconds:.0f}",
}


def continual(folder: Path) -> list[str]:
    """Return the table of strategies, and what was left out."""
    from fedcl.analysis.columns import piped
    from fedcl.analysis.runs import differences

    chosen, lost = groups({name: folder / slug(name) for name in STRATEGIES})
    if not chosen:
        return lost
    runs = [run for one in chosen for run in one.runs]
    apart = [one for one in differences(runs) if not one.startswith("augment.")]
    names, config = [one.name for one in chosen], runs[0].config
    lines = lines_of(chosen, REFERENCE if REFERENCE in names else names[0])
    return [
        f"{config['timeline.rounds']} rounds of {config['learner.steps']} steps per stage and site "
        f"that trains, batches of {config['learner.batch_size']} volumes. Scores are those after "
        "the last stage, every site counts alike; mean ± sample standard deviation over runs "
        "(seeds x orders). The interval is over seeds (Student's t). s: the sites' training.",
        piped([*HEADS], [[text(by) for text in HEADS.values()] for by in lines]),
        *(f"**These runs should not be in one table, they differ in {one}**" for one in apart),
        *lost,
    ]


def pooled(folder: Path) -> list[str]:
    """Return the table of pooled runs, beside what nnU-Net publishes, and what was left out."""
    from fedcl.analysis.columns import piped

    chosen, lost = groups({place.name: place for place in sorted((folder / "pooled").glob("*"))})
    kept = [head for head in HEADS if head != "BWT" and REFERENCE not in head]
    heads = [*kept, "steps", "batch"]
    rows = []
    for one in chosen:
        (by,), config = lines_of([one], one.name), one.runs[0].config
        steps = config["learner.steps"] * config["timeline.rounds"]
        own = [HEADS[head](by) for head in kept]
        rows.append([*own, str(steps), str(config["learner.batch_size"])])
    if not rows:
        return lost
    rows.append(["nnU-Net, as published", *(PUBLISHED.get(head, "") for head in heads[1:])])
    return [
        "All cases pooled: DynUNet with deep supervision, nnU-Net's augmentation and schedule. "
        "Every site counts alike here, every case in what is published.",
        piped(heads, rows),
        *lost,
    ]


def tables(folder: Path) -> str:
    """Return all tables of the runs in `folder`, in markdown."""
    return "\n\n".join(part.strip() for part in (*continual(folder), *pooled(folder))) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make runs or tables, and return the exit status."""
    given = options(arguments)
    if given.table is not None:
        if given.write:
            check_whole(given.table, ROOT / "benchmarks" / "hippocampus.tar.xz")
        text = tables(given.table)
        print(text)
        if given.write:
            write_section("hippocampus", f"{ABOUT}\n{text}")
        return 0
    os.environ["OMP_NUM_THREADS"] = "1"  # of every run; as many go on at a time as there are cores
    failed = run_all(planned(given), given.out, given.parallel)
    try:
        text = tables(given.out)
    except ImportError as error:
        print(f"no tables here ({error}); elsewhere: --table {given.out}")
    else:
        write_atomically(given.out / "tables.md", text.encode())
        print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
