"""How well every method remembers: methods x seeds x orders of arrival, tuned and tested.

`python -m benchmarks.forgetting` runs what has not been run yet, however often it is stopped,
and writes `benchmarks/RESULTS.md` from what there is. First the weights are tuned, on a seed
whose patients are never reported; then every method runs with the seeds and orders that are.
`--only ted souvenir` restricts it, `--lanes 2` runs so many at a time, `--report` only writes.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from os.path import relpath
from pathlib import Path
from statistics import fmean

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import (
    ROOT,
    SUNNYBROOK,
    Planned,
    completed,
    run_all,
    slug,
    write_section,
)
from fedcl.analysis.compare import markdown
from fedcl.analysis.runs import Group
from fedcl.analysis.sources import read
from fedcl.analysis.statistics import table
from fedcl.errors import ConfigError

REFERENCE = "ted"


@dataclass(frozen=True)
class Bench:
    """A scenario with its repetitions.

    Attributes:
        name: of its folder and section.
        overrides: what it is run with.
        orders: name and stages of every order of arrival.
        seeds: those reported.
        tuning: the seed that weights are tuned on; None to take those of `phantom`.
        title: a line about it for the report.
    """

    name: str
    overrides: tuple[str, ...]
    orders: dict[str, str]
    seeds: tuple[int, ...]
    tuning: int | None
    title: str


@dataclass(frozen=True)
class Method:
    """What is run under one name.

    Attributes:
        overrides: what makes it.
        grid: the values tried when tuning, each a list of overrides; none to take none.
        like: the method whose tuned values it takes.
        part: the section of the report.
    """

    overrides: tuple[str, ...]
    grid: tuple[tuple[str, ...], ...] = ()
    like: str | None = None
    part: str = "methods"


def tried(key: str, *values: float) -> tuple[tuple[str, ...], ...]:
    """Return the grid of one weight."""
    return tuple((f"strategy.{key}={value}",) for value in values)


DOMAUG = (
    "strategy=cauaug",
    "strategy.ana=false",
    "strategy.domain=image",
    "strategy.deviation=pooled",
)
TKRL = (
    "strategy=tkrl", "strategy.rounding=up", "strategy.probes.variation=absolute",
    "strategy.probes.patience=10",
)  # fmt: skip
"""As these were when they were run; the defaults of both are now those of the published code."""
STEPS = "learner.steps=10"  # per hospital and round, whatever the method
POOLED = ("timeline.centralised=true", "learner.steps=null", "learner.epochs=2")
"""A pool takes 10 steps for each of its hospitals: two passes over 40 slices in batches of 8."""

METHODS: dict[str, Method] = (
    {
        "finetune": Method(("strategy=finetune",)),
        "joint": Method(("strategy=joint",)),
        "ted": Method(
            ("strategy=ted",),
            tuple(
                (
                    f"strategy.weight.kd={kd}",
                    f"strategy.weight.ska={ska}",
                    f"strategy.weight.akt={akt}",
                )
                for kd, ska, akt in (
                    *((w, w, akt) for w in (0.25, 0.5, 1.0) for akt in (0.1, 0.2, 0.4)),
                    *((0.1, 0.25, 0.1), (0.1, 0.5, 0.1), (0.25, 0.25, 0.05)),
                    *((0.25, 0.5, 0.1), (0.25, 1.0, 0.05), (0.5, 0.25, 0.1)),
                )
            ),
        ),
        "lwf": Method(("strategy=lwf",), tried("kd", 0.5, 1, 2)),
        "souvenir": Method(("strategy=souvenir",), tried("seg", 0.5, 1, 2)),
        "individual": Method(("strategy=individual",)),
        "replay": Method(("strategy=replay",)),
        "ewc": Method(("strategy=ewc",), tried("weight", 0.03, 0.1, 0.3, 1, 3)),
        "mas": Method(("strategy=mas",), tried("weight", 0.01, 0.03, 0.1, 0.3)),
        "plop": Method(("strategy=plop",), tried("pod", 0.03, 0.1, 0.3, 1)),
        "cauaug": Method(
            ("strategy=cauaug",),
            tuple((f"strategy.kd={w}", f"strategy.dom={w}") for w in (0.1, 0.3, 1)),
        ),
        "tkrl": Method(
            TKRL,
            tuple((f"strategy.pcd={w}", f"strategy.vma={w}") for w in (0.01, 0.1, 1)),
        ),
        "fedprox": Method(("strategy=fedprox",), tried("mu", 0.001, 0.01, 0.1)),
        "finetune, batch norm": Method(("strategy=finetune", "model.norm=batch")),
        "fedbn, batch norm": Method(("strategy=fedbn", "model.norm=batch")),
    }
    | {
        f"ted: {terms}": Method(
            ("strategy=ted", f"strategy.terms={terms}"), like="ted", part="ladder"
        )
        for terms in ("kd", "kd+ska", "kd+akt", "kd+akt+gugf", "kd+ska+akt")
    }
    | {
        f"souvenir: {words}": Method(
            ("strategy=souvenir", override), like="souvenir", part="ablation"
        )
        for words, override in {
            "labels alone": "strategy.kd=0",
            "teacher alone": "strategy.seg=0",
            "looks alone": "strategy.shape=false",
            "shapes alone": "strategy.look=false",
            "no variation": "strategy.vary=0",
        }.items()
    }
    | {
        "cauaug: DomAug alone": Method(
            DOMAUG,
            tuple((f"strategy.kd={w}", f"strategy.dom={w}") for w in (0.3, 1, 2)),
            part="ablation",
        ),
        "tkrl: PCD alone": Method((*TKRL, "strategy.vma=0"), like="tkrl", part="ablation"),
        "tkrl: VMA alone": Method((*TKRL, "strategy.pcd=0"), like="tkrl", part="ablation"),
    }
    | {
        f"{name}, pooled": Method((f"strategy={name}", *POOLED), like=name, part="pooled")
        for name in ("finetune", "joint", "lwf", "ted", "souvenir")
    }
)

BENCHES = (
    Bench(
        "phantom",
        ("scenario=phantom", STEPS),
        {"ABCDEF": "[[A,B],[C,D],[E,F]]", "EFCDAB": "[[E,F],[C,D],[A,B]]"},
        (0, 1, 2),
        10,
        "Six imaginary hospitals in three stages of two; strength 0.8, 10 test patients each.",
    ),
    Bench(
        "sunnybrook",
        ("scenario=folder", f"scenario.root={relpath(SUNNYBROOK, ROOT)}", STEPS),
        {"alphabetical": "[[HF-I],[HF-NI],[HYP],[N]]", "reversed": "[[N],[HYP],[HF-NI],[HF-I]]"},
        (0, 1, 2),
        None,
        "Real cardiac MRI: four cohorts as four sites, one by one, with the weights tuned on "
        "`phantom`. Two or three test patients per site and seed.",
    ),
)
SECTIONS = {
    "methods": "Every method",
    "ladder": "TED's ladder",
    "ablation": "Parts of the follow-ups and of `souvenir`",
    "pooled": "The cost of federation: one pooled site per stage",
}
ON_SUNNYBROOK = ("finetune", "joint", "ted", "lwf", "souvenir", "ewc", "replay")


@dataclass
class Work:
    """The runs of one bench, in `folder`."""

    bench: Bench
    folder: Path
    lanes: int
    only: Sequence[str] = field(default_factory=tuple)

    def names(self) -> list[str]:
        """Return the methods to run."""
        every = METHODS if self.bench.tuning is not None else ON_SUNNYBROOK
        return [name for name in every if not self.only or name in self.only]

    def tuning_runs(self, name: str) -> dict[tuple[str, ...], list[Planned]]:
        """Return, per value tried, folder and overrides of its runs."""
        runs: dict[tuple[str, ...], list[Planned]] = {}
        for values in METHODS[name].grid:
            for order, stages in self.bench.orders.items():
                folder = self.folder / "tuning" / slug(name) / slug(in_words(values), order)
                runs.setdefault(values, []).append(
                    (folder, self.overrides(name, self.bench.tuning or 0, stages, values))
                )
        return runs

    def reported_runs(self, name: str, values: Sequence[str]) -> list[Planned]:
        """Return folder and overrides of every run that is reported."""
        return [
            (
                self.folder / slug(name) / f"seed{seed}-{order}",
                self.overrides(name, seed, stages, values),
            )
            for seed in self.bench.seeds
            for order, stages in self.bench.orders.items()
        ]

    def overrides(self, name: str, seed: int, stages: str, values: Sequence[str]) -> list[str]:
        """Return all overrides of a run; a method's own come last."""
        frame = [f"seed={seed}", f"timeline.stages={stages}", *self.bench.overrides]
        own = METHODS[name].overrides
        keys = {override.partition("=")[0] for override in own}
        kept = [value for value in values if value.partition("=")[0] not in keys]
        return [o for o in frame if o.partition("=")[0] not in keys] + kept + list(own)

    def tuned(self, name: str) -> tuple[str, ...] | None:
        """Return the best value tried, by mean AVG; None before all are done."""
        name = METHODS[name].like or name
        if not METHODS[name].grid:
            return ()
        means = {}
        for values, runs in self.tuning_runs(name).items():
            scores = [average(folder) for folder, _ in runs]
            if None in scores:
                return None
            means[values] = fmean(score for score in scores if score is not None)
        return max(means, key=lambda values: means[values])

    def run(self, runs: Iterable[Planned], what: str) -> None:
        """Run those that are not complete."""
        run_all(runs, self.lanes, f"{self.bench.name}, {what}")


def average(folder: Path) -> float | None:
    """Return the AVG of the run in `folder`, or None if it is not complete."""
    results = completed(folder)
    return None if results is None else float(results["metrics"]["avg"])


def groups(work: Work, part: str) -> list[Group]:
    """Return the runs of a section's methods, of those whose runs are all complete."""
    found = []
    for name in (name for name in METHODS if METHODS[name].part == part):
        folders = [folder for folder, _ in work.reported_runs(name, ())]
        if all(average(folder) is not None for folder in folders):
            runs = [read(str(folder), folder) for folder in folders]
            found.append(Group(name, sorted(runs, key=lambda run: run.block)))
    return found


def report(works: Sequence[Work], command: str) -> str:
    """Return RESULTS.md."""
    lines = [
        "# How well every method remembers",
        "",
        f"Written by `{command}`; what the columns mean is in `docs/explanation/measures.md`, what "
        "was verified in `docs/methods`. Every hospital takes 10 gradient steps in every round it "
        "takes part in, 8 rounds per stage, whatever the method; `joint` and `replay` call "
        "earlier hospitals too, so they take more in all. ± is the sample standard deviation "
        "over the runs. AVG - ted is the mean difference over the same seeds and orders with its "
        "95 % interval over seeds (Student's t). p is the two-sided Wilcoxon signed-rank test over "
        "test patients, paired with TED, scores averaged over orders, Holm-corrected within a "
        "table; it takes the trained models as given and asks whether the typical patient is "
        "segmented better, whereas AVG may be decided by a few very bad sites. Seconds are the "
        "sites' training, on a shared machine: orders of magnitude, no more.",
        "",
        "`benchmarks/forgetting.tar.xz` holds what every run left: after `mkdir -p outputs; tar "
        "-xf benchmarks/forgetting.tar.xz -C outputs` this can be written anew (`--report`), and "
        "`fedcl compare outputs/forgetting/sunnybrook --out report` takes a folder; that of the "
        "phantom also holds runs with other budgets and networks, so say which: `fedcl compare "
        "outputs/forgetting/phantom --where learner.steps=10 --where model.norm=instance --out "
        "report`. The runs were made before 2026-11-25: their files also hold 95 % Hausdorff "
        "distances by a convention that was wrong since (whole end slices counted as surface), "
        "and Sunnybrook's scores are those of the resized slices, pooled over a patient; no table "
        "here has a distance. `cauaug` was run anew on 2026-11-26, as its published code is, and "
        "the data digests of the phantom's older runs were written as they are reckoned since: the "
        "data are the same, and `finetune` still ends with the same weights, bit for bit; "
        f"`cauaug: DomAug alone` is `{' '.join(DOMAUG)}`, `tkrl` and its parts are "
        f"`{' '.join(TKRL)}`, which are no longer the defaults.",
        "",
    ]
    for work in works:
        main = groups(work, "methods")
        if not main:
            continue
        seeds = ", ".join(map(str, work.bench.seeds))
        lines += [f"## {work.bench.name}", "", work.bench.title, ""]
        lines += [f"Seeds {seeds}; orders {', '.join(work.bench.orders)}.", ""]
        lacking = [
            name
            for name in work.names()
            if any(average(folder) is None for folder, _ in work.reported_runs(name, ()))
        ]
        if lacking:
            lines += [f"**Not complete yet:** {'; '.join(lacking)}.", ""]
        anchors = [g for g in main if g.name in ("finetune", "joint", REFERENCE)]
        for part, title in SECTIONS.items():
            chosen = groups(work, part)
            if not chosen:
                continue
            if part != "methods":
                chosen += anchors
            reference = REFERENCE if any(g.name == REFERENCE for g in chosen) else chosen[0].name
            lines += [f"### {title}", "", markdown(table(chosen, reference), reference), ""]
        if work.bench.tuning is not None:
            lines += tuning(work)
    return "\n".join(lines)


def in_words(values: Sequence[str]) -> str:
    """Return a value that was tried, as "kd=0.5,ska=0.5"."""
    return ",".join(value.removeprefix("strategy.").removeprefix("weight.") for value in values)


def tuning(work: Work) -> list[str]:
    """Return what was tried, on which seed, and what was best."""
    lines = [
        f"### Tuning, on seed {work.bench.tuning}",
        "",
        "Mean AVG over the orders; the best value (bold) is used above.",
        "",
        "| method | values tried |",
        "|---|---|",
    ]
    for name, method in METHODS.items():
        best = work.tuned(name) if method.grid else None
        if best is None:
            continue
        cells = []
        for values, runs in work.tuning_runs(name).items():
            scores = [score for folder, _ in runs if (score := average(folder)) is not None]
            cell = f"{in_words(values)}: {fmean(scores):.3f}"
            cells.append(f"**{cell}**" if values == best else cell)
        lines.append(f"| {name} | {'; '.join(cells)} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "forgetting")
    parser.add_argument("--lanes", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--only", nargs="*", default=[], metavar="METHOD")
    parser.add_argument("--report", action="store_true", help="run nothing, only write")
    given = parser.parse_args()
    unknown = sorted(set(given.only) - set(METHODS))
    if unknown:
        raise ConfigError(
            f"--only: there is no {', '.join(unknown)}; there are {', '.join(METHODS)}"
        )
    here = [b for b in BENCHES if b.name != "sunnybrook" or SUNNYBROOK.is_dir()]
    works = [Work(b, given.out / b.name, given.lanes, given.only) for b in here]
    if not given.report:
        phantom = works[0]
        for name in phantom.names():
            source = METHODS[name].like or name
            trial = [run for runs in phantom.tuning_runs(source).values() for run in runs]
            phantom.run(trial, f"tuning {source}")
        for work in works:
            for name in work.names():
                values = phantom.tuned(name)
                assert values is not None, "tuned above"
                work.run(work.reported_runs(name, values), name)
    text = report(works, "python -m benchmarks.forgetting")
    write_section("forgetting", text)


if __name__ == "__main__":
    main()
