"""What the model of the previous round is worth as a second teacher, where hospitals are unequal.

`python -m benchmarks.drift` runs what has not been run yet and writes a section of
`benchmarks/RESULTS.md`; `--lanes 2` runs so many at a time, `--report` only writes.
"""

from collections.abc import Sequence
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import (
    ROOT,
    Planned,
    archive,
    check_whole,
    options,
    run_all,
    slug,
    write_section,
)  # fmt: skip
from fedcl.analysis.compare import markdown
from fedcl.analysis.runs import Group
from fedcl.analysis.sources import read
from fedcl.analysis.statistics import table

ARCHIVE = ROOT / "benchmarks" / "drift.tar.xz"
SEEDS = (0, 1, 2, 3, 4)
STRATEGIES = ("finetune", "lwf", "ted")
COMMON = (
    "scenario=phantom", "timeline.stages=[[A,B],[C,D],[E,F]]", "timeline.rounds=3",
    "learner.epochs=4", "sites.A.data_fraction=0.3", "sites.D.data_fraction=0.3",
    "sites.E.data_fraction=0.3", "run.figures=false",
)  # fmt: skip
TEACHERS = {
    "stage": ("strategy.teacher.refresh=stage",),
    "round": ("strategy.teacher.refresh=round",),
    **{
        f"both, drift {weight}": (
            "strategy.teacher.refresh=both",
            f"strategy.teacher.drift={weight}",
        )
        for weight in (0.03, 0.1, 0.3, 1)
    },
}
TEXT = f"""## drift

The phantom's hospitals, two in a stage whose scanners differ, of which one has three tenths of its
patients; three rounds of four local epochs each, so that they drift apart within a round.
`{" ".join(COMMON)}`, seeds {", ".join(map(str, SEEDS))}. `stage` is taught by the model of the
stage before, `round` by that of the round before, `both` by both, that of the round with the
weight `drift` (FedGKD). Columns as in "comparison"; `benchmarks/drift.tar.xz` holds what every run
left. Regenerate with `python -m benchmarks.drift`.
"""


def planned(out: Path, name: str, own: Sequence[str]) -> list[Planned]:
    """Return the runs of a method with a teacher, one per seed."""
    return [
        (
            out / slug(name, str(seed)),
            [*COMMON, f"strategy={name.partition(':')[0]}", *own, f"seed={seed}"],
        )
        for seed in SEEDS
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the section."""
    given = options(__doc__, arguments, "drift")
    plans = {"finetune": planned(given.out, "finetune", ())}
    for strategy in STRATEGIES[1:]:
        for teacher, own in TEACHERS.items():
            name = f"{strategy}: {teacher}"
            plans[name] = planned(given.out, name, own)
    if given.report:
        check_whole(given.out, ARCHIVE)
    else:
        by_seed = zip(*plans.values(), strict=True)
        run_all([run for runs in by_seed for run in runs], given.lanes, "drift")
        archive(given.out, ARCHIVE)
    lines = [TEXT]
    for strategy in STRATEGIES[1:]:
        reference = f"{strategy}: stage"
        names = ["finetune", *(name for name in plans if name.startswith(f"{strategy}:"))]
        groups = [Group(name, [read(str(at), at) for at, _ in plans[name]]) for name in names]
        lines += [f"### {strategy}", "", markdown(table(groups, reference), reference), ""]
    write_section("drift", "\n".join(lines))


if __name__ == "__main__":
    main()
