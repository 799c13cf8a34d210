"""What a large teacher is worth to a small student: scales of `contrastive`, one by one.

`python -m benchmarks.contrastive` runs what has not been run yet, however often it is stopped,
and writes a section of `benchmarks/RESULTS.md` from what there is; `--lanes 2` runs so many at a
time, `--report` only writes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import ROOT, Planned, completed, markdown, run_all, slug, write_section
from fedcl.model_table import scored, view
from fedcl.runs import Group, Run, read
from fedcl.statistics import Line, average, cases, table

SEEDS = (0, 1, 2)
COMMON = (
    "scenario=ct_phantom",
    "sites=ct_phantom-contrastive",
    "timeline.stages=[[A,B],[C,D]]",
)
TUNED = ("strategy.weight.decoder=0.4", "strategy.weight.maps=1.0")
ALONE, TEACHER = "student alone", "teacher"
SCALES = ("encoder", "bottleneck", "decoder", "maps")
METHODS: dict[str, tuple[str, ...]] = {
    ALONE: ("strategy=finetune",),
    **{scale: ("strategy=contrastive", f"strategy.terms={scale}") for scale in SCALES},
    "all": ("strategy=contrastive",),
    "decoder + maps, tuned": ("strategy=contrastive", "strategy.terms=decoder+maps", *TUNED),
    "all, tuned": ("strategy=contrastive", *TUNED),
}
HEADS = (
    "", "Dice", "at C and D", "IoU", "parameters", "ms per case", "difference [95 %]", "p (Holm)",
    "way",
)  # fmt: skip
TEXT = f"""## contrastive

CT phantom, `{" ".join(COMMON)}`,
seeds {", ".join(map(str, SEEDS))}, otherwise the defaults: in the first stage A and B train the
large model, a multi-task U-Net; in the second C and D train the small one, a U-Net with
{{share:.1%}} of its parameters, on half of their cases, 5 each, for 48 steps in all. Its teacher is
the large model of the first stage, which has seen neither C nor D. Dice is the mean over the test
cases of all four sites; the interval is over seeds (Student's t), p is Wilcoxon's signed-rank test
over test cases against the student alone, Holm-corrected; "way" is the share of the distance from
the student alone to the teacher. "Tuned" weights ({", ".join(w[16:] for w in TUNED)}) were
chosen among 17 settings on seed 10, which is in no table; the others are the published ones.
Regenerate with `python -m benchmarks.contrastive`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "benchmarks")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args(arguments)
    planned: dict[str, list[Planned]] = {
        name: [
            (given.out / slug("contrastive", name, str(seed)), [*COMMON, *own, f"seed={seed}"])
            for seed in SEEDS
        ]
        for name, own in METHODS.items()
    }
    if not given.report:
        by_seed = zip(*planned.values(), strict=True)
        run_all([run for runs in by_seed for run in runs], given.lanes, "contrastive")
    groups = [
        Group(name, [read(str(f), f) for f, _ in runs])
        for name, runs in planned.items()
        if all(completed(folder) for folder, _ in runs)
    ]
    write_section("contrastive", section(groups))


def section(groups: Sequence[Group]) -> str:
    """Return the section, given the runs of every method that is complete."""
    alone = next(group for group in groups if group.name == ALONE)
    models = [Group(TEACHER, [view(run, "large") for run in alone.runs])]
    models += [Group(g.name, [view(run, "small") for run in g.runs]) for g in groups]
    by_name = {group.name: group for group in models}
    lines = {line.name: line for line in table(models, ALONE)}
    low, high = (average(cases(by_name[name].runs)) for name in (ALONE, TEACHER))
    large, small = (alone.runs[0].results["architectures"][m] for m in ("large", "small"))
    rows = []
    for group in models:
        own = alone.runs if group.name == TEACHER else _of(groups, group.name)
        model = "large" if group.name == TEACHER else "small"
        costs = [run.results["architectures"][model] for run in own]
        here = average(cases(group.runs))
        judged = [scored(run, "iou") for run in group.runs]
        rows.append(
            [
                group.name,
                f"{here:.3f} ± {lines[group.name].std['avg']:.3f}",
                f"{fmean(fmean(_last(run, site) for site in 'CD') for run in group.runs):.3f}",
                f"{average(cases(judged)):.3f}",
                f"{costs[0]['parameters']:,}",
                f"{1000 * fmean(fmean(c['seconds_per_case'].values()) for c in costs):.1f}",
                *_tested(lines[group.name]),
                "" if group.name in (ALONE, TEACHER) else f"{(here - low) / (high - low):.0%}",
            ]
        )
    text = TEXT.format(share=small["parameters"] / large["parameters"])
    return "\n".join([text, *markdown(HEADS, rows)])


def _of(groups: Sequence[Group], name: str) -> list[Run]:
    return next(group.runs for group in groups if group.name == name)


def _last(run: Run, site: str) -> float:
    value: float = run.results["matrix"][-1][run.results["sites"].index(site)]
    return value


def _tested(line: Line) -> list[str]:
    if line.difference is None or line.p is None:
        return ["", ""]
    return ["{:+.3f} [{:+.3f}, {:+.3f}]".format(*line.difference), f"{line.p:.2g}"]


if __name__ == "__main__":
    main()
