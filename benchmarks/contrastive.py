"""What a large teacher is worth to a small student: scales of `contrastive`, one by one.

`python -m benchmarks.contrastive` runs what has not been run yet, however often it is stopped,
and writes a section of `benchmarks/RESULTS.md` from what there is; `--lanes 2` runs so many at a
time, `--report` only writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import relpath
from pathlib import Path
from statistics import fmean

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import (
    ROOT,
    Planned,
    completed,
    markdown,
    options,
    run_all,
    slug,
    write_section,
)  # fmt: skip
from benchmarks.streams import REAL
from fedcl.analysis.architectures import scored, view
from fedcl.analysis.runs import Group
from fedcl.analysis.sources import read
from fedcl.analysis.statistics import Line, average, cases, share, table
from fedcl.analysis.tables import portion, told

SEEDS = (0, 1, 2)
Values = tuple[str, ...]
TITLES = {
    "short": "CT phantom: 48 steps",
    "long": "CT phantom: 384 steps",
    "real": "Hippocampus: 400 steps",
    "real-varied": "Hippocampus: 400 steps, images varied",
}


@dataclass(frozen=True)
class Setting:
    """Where a large model teaches small ones.

    Attributes:
        common: overrides of every run.
        name: of the teacher's run, and its further overrides.
        budgets: the students' further overrides.
    """

    common: Values
    name: str
    teacher: Values
    budgets: dict[str, Values]


FEW = ("sites.C.data_fraction=0.1", "sites.D.data_fraction=0.1", "learner.steps=50")
SETTINGS = (
    Setting(
        ("scenario=ct_phantom", "sites=ct_phantom-contrastive"),
        "teacher",
        ("learner.epochs=2",),
        {"short": ("learner.epochs=2",), "long": ("learner.epochs=16",)},
    ),
    Setting(
        (*REAL, "timeline.rounds=8", "sites=ct_phantom-contrastive", "run.figures=false"),
        "real-teacher",
        ("learner.steps=50", "augment=light"),
        {"real": FEW, "real-varied": (*FEW, "augment=light")},
    ),
)
LARGE = "strategy.teacher.model=large"
TUNED = ("strategy.weight.decoder=0.4", "strategy.weight.maps=1.0")
ALONE, TEACHER = "student alone", "teacher"
SCALES = ("encoder", "bottleneck", "decoder", "maps")
METHODS: dict[str, tuple[str, ...]] = {
    ALONE: (),
    **{scale: (f"strategy.terms={scale}",) for scale in SCALES},
    "all": ("strategy.terms=encoder+bottleneck+decoder+maps",),
    "decoder + maps, tuned": ("strategy.terms=decoder+maps", *TUNED),
    "all, tuned": TUNED,
}
HEADS = (
    "", "Dice", "IoU", "parameters", "ms per case", "difference [95 %]", "p (Holm)", "way",
)  # fmt: skip
TEXT = f"""## contrastive

Seeds {", ".join(map(str, SEEDS))}. CT phantom: `{" ".join(SETTINGS[0].common)}`, otherwise
the defaults. Strong hospitals A and B have trained the large model, a multi-task U-Net, for 80
steps each. Weak ones, C and D, train the small one, a U-Net with {{small:.1%}} of its parameters,
on half of their cases, 5 each; the large model, which has seen neither C nor D, teaches them from a
file. Dice is the mean over the test cases of C and D, ± its standard deviation over seeds; the
interval is over seeds (Student's t), p is Wilcoxon's signed-rank test over test cases against the
student alone, Holm-corrected; "way" is the share of the distance from the student alone to the
teacher, a dash where that distance is not told apart from nothing. "Tuned" weights
({", ".join(w[16:] for w in TUNED)}) were chosen among 17 settings on seed 10, which is in
no table; the others are the published ones.

What it says: with three seeds nothing is told apart, not even the teacher from the student alone.
After a short training the student has more with all scales in each of the three seeds, with every
single scale in two of them; in the mean that is a third of the distance to the teacher, not half of
it. A student that
trains long is as good as the teacher on this phantom, and nothing is left to be gained. Tried
besides, on one or two seeds each and in no table: batch for instance normalisation, `strength=0.5`,
8 to 24 patients, 96 to 400 steps, rates of 0.001 and 0.005, a teacher of A and D for B and C: less
gain, or none. On real volumes (hippocampus, a tenth of the cases, 400 steps, seed 10, one run each)
the student alone has 0.753, taught 0.770, and 0.803 and 0.806 where images are varied: augmentation
gave more than the teacher did. `benchmarks/contrastive.tar.xz` holds what every run
left. Regenerate with `python -m benchmarks.contrastive`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the section."""
    given = options(__doc__, arguments, "contrastive")
    planned: dict[tuple[str, str], list[Planned]] = {}
    for setting in SETTINGS:
        for budget, values in setting.budgets.items():
            for name, own in METHODS.items():
                planned[budget, name] = [
                    student(given.out, setting, (budget, name, str(seed)), seed, (*values, *own))
                    for seed in SEEDS
                ]
    teachers = [teacher(given.out, setting, seed) for setting in SETTINGS for seed in SEEDS]
    if not given.report:
        run_all(teachers, given.lanes, "teachers")
        runs = [one for by_seed in zip(*planned.values(), strict=True) for one in by_seed]
        run_all(runs, given.lanes, "students")
    found = {
        budget: {name: read_group(name, planned[budget, name]) for name in METHODS}
        for budget in TITLES
        if all(completed(folder) for name in METHODS for folder, _ in planned[budget, name])
    }
    if not found:
        raise RuntimeError(f"{given.out}: no table is complete; run without --report first")
    write_section("contrastive", section(found))


def teacher(out: Path, setting: Setting, seed: int) -> Planned:
    """Return the run of a large model at the strong hospitals."""
    common = (*setting.common, "timeline.stages=[[A,B]]", f"seed={seed}", "strategy=finetune")
    return out / slug(setting.name, str(seed)), [*common, *setting.teacher]


def student(
    out: Path, setting: Setting, words: Sequence[str], seed: int, own: Sequence[str]
) -> Planned:
    """Return the run of small models; where it has settings of `contrastive`, they are taught."""
    file = relpath(teacher(out, setting, seed)[0] / "checkpoint" / "stage-1.safetensors", ROOT)
    taught = ("strategy=contrastive", f"strategy.teacher.file={file}", LARGE)
    alone = not any(one.startswith("strategy.") for one in own)
    common = (*setting.common, "timeline.stages=[[C,D]]", f"seed={seed}")
    method = ("strategy=finetune",) if alone else taught
    return out / slug(*words), [*common, *method, *own]


def read_group(name: str, runs: Sequence[Planned]) -> Group:
    """Return the runs of a method."""
    return Group(name, [read(str(folder), folder) for folder, _ in runs])


def section(found: Mapping[str, Mapping[str, Group]]) -> str:
    """Return the section, given the runs of every method, of every budget that is complete."""
    parts, small = [], 0.0
    for budget, title in TITLES.items():
        parts += [f"### {title}", ""]
        if budget not in found:
            parts += ["**Not run yet.**", ""]
            continue
        groups = found[budget]
        taught = groups["all"]
        models = {
            TEACHER: Group(TEACHER, [view(run, "large") for run in taught.runs]),
            ALONE: groups[ALONE],
        }
        models |= {
            n: Group(n, [view(r, "small") for r in groups[n].runs]) for n in METHODS if n != ALONE
        }
        lines = {line.name: line for line in table(list(models.values()), ALONE)}
        dice = {name: average(cases(group.runs)) for name, group in models.items()}
        rows = []
        for name, group in models.items():
            model = "large" if name == TEACHER else "small"
            costs = [run.results.architectures[model] for run in group.runs]
            way = portion(share(models[ALONE], group, models[TEACHER]), "-")
            rows.append(
                [
                    name,
                    f"{dice[name]:.3f} ± {lines[name].std['avg']:.3f}",
                    f"{average(cases([scored(run, 'iou') for run in group.runs])):.3f}",
                    f"{costs[0].parameters:,}",
                    f"{1000 * fmean(fmean(c.seconds_per_case.values()) for c in costs):.1f}",
                    *_tested(lines[name]),
                    "" if name in (ALONE, TEACHER) else way,
                ]
            )
        sizes = [one.parameters for one in taught.runs[0].results.architectures.values()]
        small = min(sizes) / max(sizes)
        parts += markdown(HEADS, rows)
    return "\n".join([TEXT.format(small=small), *parts])


def _tested(line: Line) -> list[str]:
    return [told(line.difference, ""), "" if line.p is None else f"{line.p:.2g}"]


if __name__ == "__main__":
    main()
