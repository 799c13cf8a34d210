"""How well every method remembers, on equal terms: streams x methods x seeds x orders.

`python -m benchmarks.comparison` runs what has not been run yet, however often it is stopped, and
writes `benchmarks/RESULTS.md` from what there is. First the weights are tuned, as many values for
every method, on a seed that is in no table; then all run with the seeds and orders that are, once
with augmentation for everybody and once for nobody. `--stream phantom`, `--only ted souvenir`
restrict it, `--lanes 2` runs so many at a time, `--report` only writes.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import ROOT, Planned, archive, completed, run_all, slug, write_section
from benchmarks.streams import STREAMS, Stream
from fedcl.analysis.compare import markdown
from fedcl.analysis.runs import Group
from fedcl.analysis.sources import read
from fedcl.analysis.statistics import table

REFERENCE = "finetune"
AUGMENTS = {"none": "Nobody's images are varied", "light": "Everybody's images are varied"}
Values = tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """What is run under one name.

    Attributes:
        overrides: what makes it.
        grid: the values tried when tuning, each a list of overrides; none to take none.
        like: the method whose tuned values it takes.
        part: the section of the report: "methods", or "parts" of them, which are run without
            augmentation.
    """

    overrides: Values
    grid: tuple[Values, ...] = ()
    like: str | None = None
    part: str = "methods"


def tried(keys: str, *values: float) -> tuple[Values, ...]:
    """Return the grid of a weight, or of several that are tried together."""
    return tuple(tuple(f"strategy.{key}={value}" for key in keys.split()) for value in values)


def weights(keys: str, *tried: tuple[float, ...]) -> tuple[Values, ...]:
    """Return a grid of several weights."""
    names = [f"strategy.{key}" for key in keys.split()]
    return tuple(
        tuple(f"{key}={value}" for key, value in zip(names, one, strict=True)) for one in tried
    )


METHODS: dict[str, Method] = {
    "finetune": Method(("strategy=finetune",)),
    "joint": Method(("strategy=joint",)),
    "joint, pooled": Method(("strategy=joint", "timeline.centralised=true")),
    "individual": Method(("strategy=individual",)),
    "replay": Method(("strategy=replay",)),
    "lwf": Method(("strategy=lwf",), tried("kd", 0.3, 1, 3, 10)),
    "mib": Method(("strategy=mib",), tried("kd", 0.3, 1, 3, 10)),
    "plop": Method(("strategy=plop",), tried("pod", 0.03, 0.1, 0.3, 1)),
    "ewc": Method(("strategy=ewc",), tried("weight", 0.1, 0.3, 1, 3)),
    "mas": Method(("strategy=mas",), tried("weight", 0.01, 0.03, 0.1, 0.3)),
    "fedprox": Method(("strategy=fedprox",), tried("mu", 0.001, 0.01, 0.1, 1)),
    "ted": Method(
        ("strategy=ted",),
        weights(
            "weight.kd weight.ska weight.akt",
            *((0.25, 0.25, 0.1), (1, 1, 0.1), (0.25, 0.25, 0.4), (3, 3, 0.1)),
        ),
    ),
    "cauaug": Method(("strategy=cauaug",), tried("kd dom", 0.1, 0.3, 1, 3)),
    "tkrl": Method(("strategy=tkrl",), tried("pcd vma", 0.01, 0.03, 0.1, 0.3)),
    "souvenir": Method(("strategy=souvenir",), tried("seg", 0.3, 0.5, 1, 2)),
    "harmony": Method(("strategy=harmony",), weights("kd seg", (2, 0), (4, 0), (2, 0.2), (2, 0.5))),
    **{
        f"ted: {terms}": Method(
            ("strategy=ted", f"strategy.terms={terms}"), like="ted", part="parts"
        )
        for terms in ("kd", "kd+ska", "kd+akt", "kd+akt+gugf", "kd+ska+akt")
    },
    "cauaug: DomAug alone": Method(
        ("strategy=cauaug", "strategy.ana=false"), like="cauaug", part="parts"
    ),
    "cauaug: AnaAug alone": Method(
        ("strategy=cauaug", "strategy.kd=0", "strategy.dom=0"), part="parts"
    ),
    "tkrl: PCD alone": Method(("strategy=tkrl", "strategy.vma=0"), like="tkrl", part="parts"),
    "tkrl: VMA alone": Method(("strategy=tkrl", "strategy.pcd=0"), like="tkrl", part="parts"),
    "souvenir: teacher alone": Method(
        ("strategy=souvenir", "strategy.seg=0"), like="souvenir", part="parts"
    ),
    "souvenir: labels alone": Method(
        ("strategy=souvenir", "strategy.kd=0"), like="souvenir", part="parts"
    ),
    "souvenir: shapes alone": Method(
        ("strategy=souvenir", "strategy.look=false"), like="souvenir", part="parts"
    ),
    "harmony: teacher alone": Method(
        ("strategy=harmony", "strategy.seg=0"), like="harmony", part="parts"
    ),
    "harmony: labels alone": Method(
        ("strategy=harmony", "strategy.kd=0", "strategy.seg=0.5"), like="harmony", part="parts"
    ),
    "harmony: shapes alone": Method(
        ("strategy=harmony", "strategy.look=false"), like="harmony", part="parts"
    ),
    "harmony: looks alone": Method(
        ("strategy=harmony", "strategy.shape=false"), like="harmony", part="parts"
    ),
    "harmony: not corrected": Method(
        ("strategy=harmony", "strategy.correct=0"), like="harmony", part="parts"
    ),
    "ted, both teachers": Method(
        ("strategy=ted", "strategy.teacher.refresh=both"), like="ted", part="parts"
    ),
}


@dataclass
class Work:
    """The runs of one stream, in `folder`."""

    name: str
    stream: Stream
    folder: Path

    def methods(self, part: str = "") -> list[str]:
        """Return the methods of a part of the report, or all, that are run on this stream."""
        found = []
        for name, method in METHODS.items():
            own = self.stream.only if method.part == "methods" else self.stream.parts
            of = name if method.part == "methods" else method.overrides[0].partition("=")[2]
            if method.part.startswith(part) and (own is None or of in own):
                found.append(name)
        return found

    def augments(self, name: str) -> Sequence[str]:
        """Return with which augmentations a method is run."""
        return [*AUGMENTS] if METHODS[name].part == "methods" else ["none"]

    def tuning(self, name: str) -> dict[Values, Planned]:
        """Return the run of every value that is tried, in the first order of arrival."""
        stages = next(iter(self.stream.orders.values()))
        return {
            values: (
                self.folder / "tuning" / slug(name, words(values)),
                self.overrides(name, self.stream.tuning, stages, "none", values),
            )
            for values in METHODS[name].grid
        }

    def tuned(self, name: str) -> Values | None:
        """Return the best value tried, by AVG; None before all have been."""
        name = METHODS[name].like or name
        scores = {values: average(folder) for values, (folder, _) in self.tuning(name).items()}
        if None in scores.values():
            return None
        return max(scores, key=lambda values: scores[values] or 0.0, default=())

    def reported(self, name: str, augment: str, values: Values = ()) -> list[Planned]:
        """Return every run that is reported."""
        return [
            (
                self.folder / slug(name, augment) / f"seed{seed}-{order}",
                self.overrides(name, seed, stages, augment, values),
            )
            for seed in self.stream.seeds
            for order, stages in self.stream.orders.items()
        ]

    def overrides(
        self, name: str, seed: int, stages: str, augment: str, values: Values
    ) -> list[str]:
        """Return all overrides of a run; a method's own come last."""
        frame = [f"seed={seed}", f"timeline.stages={stages}", f"augment={augment}"]
        every = [*frame, *self.stream.overrides, *values, *METHODS[name].overrides]
        return [*{one.partition("=")[0]: one for one in every}.values()]

    def groups(self, part: str, augment: str) -> list[Group]:
        """Return the runs of a part's methods, of those whose runs are all complete."""
        anchors = ["finetune", "joint", "ted"] if part == "parts" else []
        found = []
        for name in [*anchors, *self.methods(part)]:
            folders = [folder for folder, _ in self.reported(name, augment)]
            if name in self.methods() and all(average(one) is not None for one in folders):
                runs = [read(str(folder), folder) for folder in folders]
                found.append(Group(name, sorted(runs, key=lambda run: run.block)))
        return found


def words(values: Values) -> str:
    """Return a value that was tried, as "kd=0.5,ska=0.5"."""
    return ",".join(one.removeprefix("strategy.").removeprefix("weight.") for one in values)


def average(folder: Path) -> float | None:
    """Return the AVG of the run in `folder`, or None if it is not complete."""
    results = completed(folder)
    return None if results is None else float(results["metrics"]["avg"])


def planned(work: Work, only: Sequence[str]) -> Iterator[tuple[str, list[Planned]]]:
    """Yield what is to be run next, once what was yielded before has been."""
    names = [name for name in work.methods() if not only or name in only]
    sources = dict.fromkeys(METHODS[name].like or name for name in names)
    yield "tuning", [run for name in sources for run in work.tuning(name).values()]
    runs: list[Planned] = []
    for name in names:
        values = work.tuned(name)
        assert values is not None, "tuned above"
        for augment in work.augments(name):
            runs += work.reported(name, augment, values)
    yield "methods", runs


def report(works: Sequence[Work]) -> str:
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
        for part, augment, title in (
            *(("methods", augment, title) for augment, title in AUGMENTS.items()),
            ("parts", "none", "Parts of methods"),
        ):
            lines += tables(work, part, augment, title)
        lines += tuning(work)
    return "\n".join(lines)


def tables(work: Work, part: str, augment: str, title: str) -> list[str]:
    """Return a stream's table of a part, and what it lacks; nothing of parts that have not run."""
    names = [name for name in work.methods(part) if augment in work.augments(name)]
    groups = work.groups(part, augment)
    there = {group.name for group in groups}
    if REFERENCE not in there or not there.intersection(names):
        return [f"#### {title}", "", "**Not run yet.**", ""] if part == "methods" else []
    lines = [f"#### {title}", "", markdown(table(groups, REFERENCE), REFERENCE), ""]
    lacking = [name for name in names if name not in there]
    return [*lines, f"**Not complete yet:** {', '.join(lacking)}.", ""] if lacking else lines


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


ABOUT = """## comparison

How well methods remember, on equal terms: the same learning rates, steps, rounds and augmentation
for all; where a method has weights, four values were tried, on a seed and in an order that are in
no table, without augmentation. `finetune` is every method with weight 0. `joint` calls hospitals of
earlier stages too, and so takes more steps in all; `joint, pooled` is central training and the
ceiling. What the columns mean is in `docs/explanation/measures.md`: ± is the standard deviation
over runs, differences have a 95 % interval over seeds, p is Wilcoxon's test over test cases,
Holm-corrected within a table. `s` is not to be compared: most runs of the shifted hippocampus were
made on 16 CPUs side by side (torch 2.11), the others on 2 (torch 2.13).
All of it takes some nine hours on two CPUs. Left out for that are parts of methods on all but two
streams, and on all but the phantom `mas`, `fedprox`, `plop`, `mib`, `replay` and `individual`,
unless made for what a stream shows; where nothing is forgotten, only four methods are run.
`benchmarks/comparison.tar.xz` holds what every run left. Regenerate with
`python -m benchmarks.comparison --lanes 2`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "comparison")
    parser.add_argument("--lanes", type=int, default=1, help="runs at a time")
    parser.add_argument("--stream", nargs="*", choices=STREAMS, metavar="STREAM")
    parser.add_argument("--only", nargs="*", choices=METHODS, default=[], metavar="METHOD")
    parser.add_argument("--report", action="store_true", help="run nothing, only write")
    given = parser.parse_args(arguments)
    if given.report and not any(given.out.rglob("results.json")):
        parser.error(f"no runs in {given.out}; unpack benchmarks/comparison.tar.xz there first")
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
    if not given.stream:
        write_section("comparison", report(works))
        archive(given.out, ROOT / "benchmarks" / "comparison.tar.xz")


if __name__ == "__main__":
    main()
