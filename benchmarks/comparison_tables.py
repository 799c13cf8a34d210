"""The tables of the comparison: in RESULTS.md, the README and the pages on methods."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from benchmarks.methods import METHODS
from benchmarks.plan import AUGMENTS, Work, average, words
from benchmarks.running import ROOT, write_section
from fedcl.analysis import classes
from fedcl.analysis.columns import piped
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.statistics import apart, table
from fedcl.analysis.tables import paper, told
from fedcl.tasks.metrics import class_of

REFERENCES = "finetune", "ted", "joint", "joint, pooled"
"""What every method's AVG is compared with; p is against the first."""
TITLES = {"none": "Nobody's images are varied", "light": "Everybody's images are varied"}
SECTIONS = (*(("methods", augment) for augment in AUGMENTS), ("parts", "none"))
"""Part of the methods, and with which augmentation."""
README = {"phantom": "phantom", "hippocampus, shifted": "hippocampus"}
"""The streams that are in its table, and what they are called there."""
AGAINST = tuple(f"AVG - {name} [95 %]" for name in REFERENCES)
KEPT, KEPT_BY_PARTS = (f"BWT - {name} [95 %]" for name in REFERENCES[:2])
WHOLE = ("BWT", "RBWT", "forgetting", "plasticity", KEPT, KEPT_BY_PARTS)
"""What says nothing of classes that come later: that one comes looks like better remembering."""
SHORT = ("AVG", AGAINST[0], KEPT)
WEIGHTS = "weights"
LONG = ("AVG", "closed", *AGAINST, "BWT", KEPT, "worst site", WEIGHTS)
IMAGES = {"none": "as they are", "light": "varied"}
NOTES = {
    "replay": " (keeps 8 images per hospital)",
    "mib": " (here `lwf`: all mark all classes)",
}
ALWAYS_0 = ("joint", "joint, pooled", "individual")
"""The methods whose BWT is 0 by definition, so that its distance from another's is that one's."""
OTHERWISE = ("individual", "joint, pooled", "fedprox", "cauaug")
"""The methods that compute something else than `finetune` in the first stage."""

LACKING = "not run"

Row = dict[str, str]
"""A row's cells, by the heads of their columns."""
Found = dict[tuple[str, str, str], list[Row]]
"""The rows of every table, by stream, part and augmentation."""


def write(works: Sequence[Work]) -> None:
    """Write every table from the runs that there are."""
    found = complete(works)
    write_section("comparison", report(works, found))
    write_section("measured", readme(found), ROOT / "README.md")
    for strategy in dict.fromkeys(method.strategy for method in METHODS.values()):
        page = ROOT / "docs" / "methods" / f"{strategy}.md"
        write_section("measured", measured(strategy, found), page)


def complete(works: Sequence[Work]) -> Found:
    """Return the rows of every table."""
    return {(work.name, *of): rows(work, *of) for work in works for of in SECTIONS}


def rows(work: Work, part: str, augment: str) -> list[Row]:
    """Return a table's rows, best first, of the methods whose runs are all complete.

    Nothing without the first reference, nor where none of the part is there but references.
    """
    groups = work.groups(part, augment)
    there = {group.name for group in groups}
    if REFERENCES[0] not in there or not there.intersection(work.methods(part)):
        return []
    header, lines = paper(table(groups, REFERENCES[0]), REFERENCES[0], "-")
    found = [dict(zip(header, line, strict=True)) for line in lines]
    by_name = {group.name: group for group in groups}
    for row in found:
        for reference, head in zip(REFERENCES[1:], AGAINST[1:], strict=True):
            if reference in there:
                row[head] = beside("avg", by_name[row["strategy"]], by_name[reference])
            if reference == REFERENCES[1] and part == "parts":
                row[KEPT_BY_PARTS] = beside("bwt", by_name[row["strategy"]], by_name[reference])
        row[WEIGHTS] = words(work.weights(row["strategy"])) or "-"
        if row["strategy"] in ALWAYS_0:
            row[KEPT] = "-"
    if not work.stream.partial:
        return found
    single = by_class(groups)
    return [
        {head: cell for head, cell in row.items() if head not in WHOLE} | single[row["strategy"]]
        for row in found
    ]


def beside(figure: str, one: Group, other: Group) -> str:
    """Return how far a figure of a method is above another's, or a dash of itself."""
    return "-" if one is other else told(apart(figure, one, other), "-")


def by_class(groups: Sequence[Group]) -> dict[str, Row]:
    """Return every method's BWT class by class, beside the first reference's."""
    found: dict[str, Row] = {group.name: {} for group in groups}
    single = {(row.method, row.number): row for row in classes.table(groups)}
    for score in classes.names(groups):
        head = f"BWT, class {class_of(score)}"
        own = {
            group.name: replace(group, runs=[_judged_by(score, run) for run in group.runs])
            for group in groups
        }
        for name, group in own.items():
            row = single[name, class_of(score)]
            mean, std = row.mean["bwt"], row.std["bwt"]
            known = mean is not None and std is not None
            still = name in ALWAYS_0
            found[name][head] = f"{mean:+.3f} ± {std:.3f}" if known else "-"
            found[name][f"{head} - {REFERENCES[0]} [95 %]"] = (
                "-" if still else beside("bwt", group, own[REFERENCES[0]])
            )
    return found


def _judged_by(score: str, run: Run) -> Run:
    """Return a run whose figures are those of a class."""
    figures = run.results.metrics_by_class[score]
    return replace(run, results=replace(run.results, metrics=figures))


def marked(heads: Sequence[str], lines: Sequence[Row]) -> str:
    """Return some columns as a table."""
    return piped(list(heads), [[line.get(head, "-") for head in heads] for line in lines])


def report(works: Sequence[Work], found: Found) -> str:
    """Return the section of RESULTS.md."""
    lines = [ABOUT]
    for work in works:
        stream = work.stream
        lines += [f"### {work.name}", "", stream.title, ""]
        lines += [
            f"Seeds {', '.join(map(str, stream.seeds))}; orders {', '.join(stream.orders)}; "
            f"`{' '.join(stream.overrides)}`.",
            "",
        ]
        for part, augment in SECTIONS:
            lines += section(work, part, augment, found[work.name, part, augment])
        lines += tuning(work)
    return "\n".join(lines)


def section(work: Work, part: str, augment: str, found: Sequence[Row]) -> list[str]:
    """Return a table with what it lacks; nothing of parts that have not run."""
    title = TITLES[augment] if part == "methods" else "Parts of methods"
    names = [name for name in work.methods(part) if augment in work.augments(name)]
    if not found:
        missing = part == "methods" and names
        return [f"#### {title}", "", "**Not run yet.**", ""] if missing else []
    lines = [f"#### {title}", "", marked([*found[0]], found)]
    there = {row["strategy"] for row in found}
    lacking = [name for name in names if name not in there]
    if lacking:
        lines += [f"**Not complete yet:** {', '.join(lacking)}.", ""]
    if part == "methods":
        lines += [noise(work, augment), ""]
    return [*lines, *by_seed(work)] if (part, augment) == SECTIONS[0] else lines


def noise(work: Work, augment: str) -> str:
    """Return how far the same computation, that of the first stage, differs between methods."""
    scores: dict[tuple[int, str], list[float]] = {}
    for group in work.groups("methods", augment):
        for run in group.runs if group.name not in OTHERWISE else ():
            results = run.results
            first = dict(zip(results.sites, results.matrix[0], strict=True))
            learned = [score for site in results.stages[0] if (score := first[site]) is not None]
            scores.setdefault(run.block, []).append(fmean(learned))
    apart = max(max(found) - min(found) for found in scores.values())
    return (
        "The first stage, in which most methods compute the same, differs between them by up to "
        f"{apart:.3f}."
    )


def by_seed(work: Work) -> list[str]:
    """Return AVG and BWT of every seed, over orders: what no mean shows."""
    lines = []
    for group in work.groups(*SECTIONS[0]):
        line = {"strategy": group.name}
        for seed in work.stream.seeds:
            found = [run.results.metrics for run in group.runs if run.results.seed == seed]
            avg, bwt = ([one[figure] for one in found] for figure in ("avg", "bwt"))
            line[f"seed {seed}"] = f"{fmean(avg):.3f}"
            if not work.stream.partial:
                line[f"seed {seed}"] += f", {fmean(bwt):+.3f}"
        lines.append(line)
    what = "AVG" if work.stream.partial else "AVG and BWT"
    return [f"{what} of every seed, over orders:", "", marked([*lines[0]], lines)]


def tuning(work: Work) -> list[str]:
    """Return what was tried, and what was best."""
    lines = []
    for name in work.methods("methods"):
        best = work.tuned(name)
        if not METHODS[name].grid or best is None:
            continue
        runs = work.tuning(name).items()
        cells = [f"{words(values)}: {average(folder):.3f}" for values, (folder, _) in runs]
        bold = [
            f"**{c}**" if values == best else c for c, (values, _) in zip(cells, runs, strict=True)
        ]
        lines.append(f"| {name} | {'; '.join(bold)} |")
    heads = ["| method | AVG of the values tried |", "|---|---|"]
    return [f"#### Tuning, seed {work.stream.tuning}", "", *heads, *lines, ""] if lines else []


def readme(found: Found) -> str:
    """Return the README's table: the methods in the order of its first stream."""
    methods: dict[str, Row] = {}
    for stream, short in README.items():
        for row in found.get((stream, "methods", "none"), ()):
            name = row["strategy"]
            own = methods.setdefault(name, {"strategy": f"`{name}`{NOTES.get(name, '')}"})
            own |= {f"{short}: {head}": row.get(head, "-") for head in SHORT}
    columns = [f"{short}: {head}" for short in README.values() for head in SHORT]
    lines = [{**dict.fromkeys(columns, LACKING), **row} for row in methods.values()]
    return marked(["strategy", *columns], lines)


def measured(strategy: str, found: Found) -> str:
    """Return the tables of the page on a strategy: what it reached, and its parts."""
    lines = [MEASURED]
    for part, heads in (
        ("methods", ["data", "images", *LONG]),
        ("parts", ["data", *LONG, KEPT_BY_PARTS]),
    ):
        own = [
            {**row, "data": stream, "images": IMAGES[augment]}
            for (stream, of, augment), table in found.items()
            for row in table
            if of == part and METHODS[row["strategy"]].strategy == strategy
        ]
        several = {row["strategy"] for row in own} != {strategy}
        if own and (several or part == "methods"):
            known = [head for head in heads if any(head in row for row in own)]
            lines.append(marked([*(["strategy"] if several else []), *known], own))
    return "\n".join(lines) if len(lines) > 1 else "Nothing of it is complete yet."


MEASURED = """\
On equal terms with all other methods: ten runs each (five seeds, two orders of arrival), ± is their
standard deviation, brackets hold 95 % intervals over seeds. Weights were tuned for each stream, and
are not the defaults everywhere. Where sites mark different classes BWT is told class by class, in
`benchmarks/RESULTS.md`, which has all methods and columns. How all was done:
[](how_it_was_measured.md).
"""
ABOUT = """## comparison

How well methods remember, on equal terms: the same learning rates, steps, rounds and augmentation
for all. Where a method has weights, four values were tried, and a fifth where the best lay at the
edge of these, on seed 10, in the first order, without augmentation, by the test scores of that
split. The split is in no table; on real images some of its patients are. `harmony` takes the values
of `harmony, corrected`: the correction was meant to be on by default, and was switched off after
these results; where labels are partial, and on images as they came, it was tuned without.
The weight of the distillation that `tkrl` and `souvenir` build on stays at its default.
`finetune` is every method with weight 0. `joint` calls hospitals of earlier stages too, and so
takes more steps in all; `joint, pooled` is central training on all images, which takes the steps of
one hospital in every round, and "MB sent" of it are weights, not the images that would have to be
moved.

What the columns mean is in `docs/explanation/measures.md`: ± is the standard deviation over runs;
differences and "closed" have 95 % intervals over seeds, each for itself and not corrected for how
many there are; on real images the seeds are splits of the same patients, and intervals too narrow
for others. p is Wilcoxon's test over test cases given these trained models, Holm-corrected within a
table, so that it changes while a table grows. RBWT divides by what was learned, and says nothing
where that was next to nothing, as in the first stage of some seeds of the phantoms. Where sites
mark different classes, BWT is told class by class, over the sites that mark it: in the mean over
classes the arrival of one looks like remembering.

Runs were made on several machines, so `s` is not to be compared: on phantom3d all but `harmony`
and `tkrl` on one H100 in float32, twenty at a time (torch 2.11), where no run repeats another bit
for bit, so that runs which are called paired are so only loosely. How far the same first stage
differs is told below every table. On the shifted hippocampus `finetune`, `harmony` and most of
`joint` ran on 16 CPUs side by side (torch 2.11), all else on 2 (torch 2.13).

All of it takes nearly ten hours of two CPUs, by what sites computed in the runs that there are;
the archive's `cpu_seconds.server` is too high where one process made several runs, but for the
last streams. What was left out for that:

- Parts of methods are run on the phantom; on the shifted real streams those of `harmony` alone.
  They are named by what is left: "teacher alone" has no labels on images that are mapped or
  restaged, "labels alone" no teacher (`harmony` with `seg=0.5`), "looks alone" moves nothing,
  "shapes alone" maps no intensities; "pooled" is one hospital with everybody's images, "both
  teachers" has the model of the round before beside that of the stage before.
- `mas`, `fedprox` and `replay` are run on the phantom alone; `plop`, `mib` and `individual` there
  and where labels are partial, which the first two are made for.
- Where labels are partial everybody's images are varied for `finetune`, `joint`, `ted` and
  `harmony` alone; `cauaug`, `tkrl` and `joint, pooled` are not run there, and `souvenir` refuses
  it. On the two real streams as they came these four are all that is run, and nobody's images are
  varied.

`benchmarks/comparison.tar.xz` holds what every run left.
Regenerate with `python -m benchmarks.comparison --lanes 2`.
"""
