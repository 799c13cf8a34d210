"""What a large teacher is worth to a small student: scales of `contrastive`, one by one.

`python -m benchmarks.contrastive` runs what has not been run yet, however often it is stopped,
and writes a section of `benchmarks/RESULTS.md`, and its tables into the page on the method, from
what there is; `--lanes 2` runs so many at a time, `--report` only writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import zip_longest
from os.path import relpath
from pathlib import Path
from statistics import fmean, median

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import (
    ROOT,
    Planned,
    archive,
    check_whole,
    finished,
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
from fedcl.analysis.tables import portion, significance, told

Values = tuple[str, ...]


@dataclass(frozen=True)
class Budget:
    """How long students train, and on what.

    Attributes:
        title: of its table.
        values: overrides.
        seeds: how many, from 0 on.
    """

    title: str
    values: Values
    seeds: int


@dataclass(frozen=True)
class Setting:
    """Where a large model teaches small ones.

    Attributes:
        common: overrides of every run.
        name: of the teacher's run.
        teacher: its further overrides.
        methods: how students are taught.
        budgets: theirs, by the names of their folders.
    """

    common: Values
    name: str
    teacher: Values
    methods: Sequence[str]
    budgets: dict[str, Budget]


ARCHIVE = ROOT / "benchmarks" / "contrastive.tar.xz"
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
FEW = ("sites.C.data_fraction=0.1", "sites.D.data_fraction=0.1", "learner.steps=50")
SETTINGS = (
    Setting(
        ("scenario=ct_phantom", "sites=ct_phantom-contrastive"),
        "teacher",
        ("learner.epochs=2",),
        tuple(METHODS),
        {
            "short": Budget("CT phantom: 48 steps", ("learner.epochs=2",), 10),
            "long": Budget("CT phantom: 384 steps", ("learner.epochs=16",), 5),
        },
    ),
    Setting(
        (*REAL, "timeline.rounds=8", "sites=ct_phantom-contrastive", "run.figures=false"),
        "real-teacher",
        ("learner.steps=50", "augment=light"),
        (ALONE, "encoder", "all", "all, tuned"),
        {
            "real": Budget("Hippocampus: 400 steps", FEW, 3),
            "real-varied": Budget(
                "Hippocampus: 400 steps, images varied", (*FEW, "augment=light"), 3
            ),
        },
    ),
)
HEADS = ("", "Dice", "IoU", "difference [95 %]", "p (Holm)", "way")
TEXT = f"""## contrastive

CT phantom: `{" ".join(SETTINGS[0].common)}`, otherwise the defaults; seeds from 0 on, as many as
each title says. Strong hospitals A and B have trained the large model, a multi-task U-Net, for 80
steps each. Weak ones, C and D, train the small one, a U-Net, on half of their cases, 5 each; the
large model, which has seen neither C nor D, teaches them from a file. Hippocampus (shifted): the
same with a tenth of C's and D's cases, a teacher that trained for 400 steps with images varied, and
volumes; the scales that are not in the table were left out for their time.
Dice is the mean over the test cases of C and D, ± its standard deviation over seeds; the
interval is over seeds (Student's t), p is Wilcoxon's signed-rank test over test cases against the
student alone, Holm-corrected; "way" is the share of the distance from the student alone to the
teacher, a dash where that distance is not told apart from nothing. "Tuned" weights
({", ".join(w[16:] for w in TUNED)}) were chosen among 17 settings on seed 10, which is in
no table; the others are the published ones.

What it says: on the phantom all scales together close a fifth of the distance to the teacher after
a short training, the decoder alone as much; of the encoder and of the prediction maps alone, and of
all with tuned weights, that is not told apart from nothing over seeds. Half of it, which was hoped
for, is within no interval there. A student that trains long is as good as the teacher on this
phantom; there is nothing left to be gained, and all scales with the published weights cost
something. On real volumes all scales with the published weights are ahead of the student alone in
each of six pairs of runs, by too little for three seeds to tell it apart from nothing; the encoder
alone is not; and with the weights tuned on the phantom three of six students never learn the
posterior part (Dice 0.000 of it). Varied images give the student alone more, in every seed, than
the teacher does without. Tried besides, on one or two seeds of the phantom each and in no table:
batch for instance normalisation, `strength=0.5`, 8 to 24 patients, 96 to 400 steps, rates of 0.001
and 0.005, a teacher of A and D for B and C: less gain, or none.
`benchmarks/contrastive.tar.xz` holds what every run left. Regenerate with
`python -m benchmarks.contrastive`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the section."""
    given = options(__doc__, arguments, "contrastive")
    planned = {
        (key, name): [
            student(given.out, setting, (key, name, str(seed)), seed, budget.values + METHODS[name])
            for seed in range(budget.seeds)
        ]
        for setting in SETTINGS
        for key, budget in setting.budgets.items()
        for name in setting.methods
    }
    if given.report:
        check_whole(given.out, ARCHIVE)
    else:
        for setting in SETTINGS:
            seeds = range(max(budget.seeds for budget in setting.budgets.values()))
            teachers = [teacher(given.out, setting, seed) for seed in seeds]
            run_all(teachers, given.lanes, f"{setting.name}s")
            students = [planned[k, name] for k in setting.budgets for name in setting.methods]
            by_seed = zip_longest(*students)
            run_all([r for runs in by_seed for r in runs if r], given.lanes, "students")
    lines: list[str] = []
    for setting in SETTINGS:
        for key, budget in setting.budgets.items():
            runs = {name: planned[key, name] for name in setting.methods}
            there = all(finished(folder) for name in runs for folder, _ in runs[name])
            body = compared(runs) if there else ["**Not run yet.**"]
            lines += [f"### {budget.title}, {budget.seeds} seeds", "", *body, ""]
    if not given.report:
        archive(given.out, ARCHIVE, scores=["iou"])
    write_section("contrastive", "\n".join([TEXT, *lines]))
    write_section("measured", "\n".join(lines), ROOT / "docs" / "methods" / "contrastive.md")


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


def compared(planned: Mapping[str, Sequence[Planned]]) -> list[str]:
    """Return the table of a budget, given the runs of every method."""
    groups = {
        name: Group(name, [read(str(folder), folder) for folder, _ in runs])
        for name, runs in planned.items()
    }
    taught = groups["all"].runs
    models = {TEACHER: Group(TEACHER, [view(run, "large") for run in taught]), ALONE: groups[ALONE]}
    models |= {
        n: Group(n, [view(r, "small") for r in one.runs]) for n, one in groups.items() if n != ALONE
    }
    lines = {line.name: line for line in table(list(models.values()), ALONE)}
    rows = []
    for name, group in models.items():
        way = portion(share(models[ALONE], group, models[TEACHER]), "-")
        rows.append(
            [
                name,
                f"{average(cases(group.runs)):.3f} ± {lines[name].std['avg']:.3f}",
                f"{average(cases([scored(run, 'iou') for run in group.runs])):.3f}",
                *_tested(lines[name]),
                "" if name in (ALONE, TEACHER) else way,
            ]
        )
    costs = []
    for name in ("large", "small"):
        found = [run.results.architectures[name] for run in taught]
        took = median(fmean(one.seconds_per_case.values()) for one in found)
        costs.append(f"{name} {found[0].parameters:,} parameters, {1000 * took:.0f} ms per case")
    return [*markdown(HEADS, rows), f"The models: {'; '.join(costs)} (the runs' median)."]


def _tested(line: Line) -> list[str]:
    return [told(line.difference, ""), escape(significance(line.p, ""))]


if __name__ == "__main__":
    main()
