"""Runs of several architectures: what each one reaches at every site, and what it costs.

A method's architectures are compared as methods are (`fedcl.analysis.statistics`), over the test
cases of all sites, its own or not; against the smallest alone, as `finetune` trains it, where that
was run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fedcl.analysis import statistics
from fedcl.analysis.columns import Column, number, piped
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.statistics import Difference, Line, average, cases
from fedcl.analysis.tables import difference, portion
from fedcl.server.results import ArchitectureResults

ALONE = "finetune"


@dataclass(frozen=True)
class Row:
    """An architecture as a method trained it.

    Attributes:
        method, architecture: which.
        line: its scores, and the tests against the smallest alone, or what `table` says.
        iou: mean of the intersection over union, as AVG.
        parameters: all of them, also of a decoder that is used in training alone.
        macs: multiply-accumulates to predict a sample.
        seconds: to predict a case, mean over runs and sites.
        way: of the smallest, the share of the distance in AVG from itself alone to the largest
            of the same runs, with its interval (`fedcl.analysis.statistics.share`).
    """

    method: str
    architecture: str
    line: Line
    iou: float
    parameters: int
    macs: int
    seconds: float
    way: Difference | None


def table(groups: Sequence[Group], reference: str) -> tuple[list[Row], str]:
    """Return a row per method and architecture, best first, and which one is the reference.

    There are none where runs have one architecture only.

    Args:
        groups: the runs by method.
        reference: the method whose smallest architecture is tested against where none is alone.
    """
    views: dict[str, tuple[str, str, Group]] = {}
    sizes: dict[str, int] = {}
    for group in groups:
        for name in _names(group):
            runs = [view(run, name) for run in group.runs]
            if all(run.results.metrics["avg"] is not None for run in runs):
                title = f"{group.name}: {name}"
                views[title] = group.name, name, Group(title, runs)
                sizes[name] = _of(runs[0], name).parameters
    if not views:
        return [], ""
    smallest, largest = (choose(sizes, key=lambda name: sizes[name]) for choose in (min, max))
    alone = views.get(f"{ALONE}: {smallest}")
    wanted = f"{ALONE if alone else reference}: {smallest}"
    against = wanted if wanted in views else next(iter(views))
    rows = []
    for line in statistics.table([group for _, _, group in views.values()], against):
        method, name, group = views[line.name]
        large = views.get(f"{method}: {largest}")
        costs = [_of(run, name) for run in group.runs]
        rows.append(
            Row(
                method=method,
                architecture=name,
                line=line,
                iou=average(cases([scored(run, "iou") for run in group.runs])),
                parameters=costs[0].parameters,
                macs=costs[0].macs,
                seconds=fmean(fmean(one.seconds_per_case.values()) for one in costs),
                way=statistics.share(alone[2], group, large[2])
                if alone and large and name == smallest and method != ALONE
                else None,
            )
        )
    return rows, against


def markdown(rows: Sequence[Row]) -> str:
    """Return the table for a README."""
    return piped([c.title for c in COLUMNS], [[c.text(row) for c in COLUMNS] for row in rows])


COLUMNS = [
    Column("strategy", "strategy", lambda row: row.method, "the method"),
    Column("model", "model", lambda row: row.architecture, "the architecture"),
    Column("runs", "runs", lambda row: str(row.line.runs), "completed runs"),
    Column("avg", "Dice", lambda r: number(r.line.mean["avg"]), "mean over all sites"),
    Column("avg_std", "± Dice", lambda r: number(r.line.std["avg"]), "over runs"),
    Column("iou", "IoU", lambda row: number(row.iou), "intersection over union, likewise"),
    Column("parameters", "parameters", lambda row: str(row.parameters), "of the network"),
    Column(
        "macs", "multiply-accumulates", lambda row: str(row.macs), "for one slice of an image"
    ),
    Column(
        "milliseconds", "ms per case", lambda row: number(1000 * row.seconds, ".2f"),
        "to predict a patient, where it ran",
    ),
    Column(
        "difference", "difference", lambda row: difference(0)(row.line),
        "Dice less the reference's, and its 95 % interval over seeds",
    ),
    Column("difference_low", "from", lambda row: difference(1)(row.line), "its lower end"),
    Column("difference_high", "to", lambda row: difference(2)(row.line), "its upper end"),
    Column(
        "p_holm", "p (Holm)", lambda row: number(row.line.p, ".3g"),
        "Wilcoxon signed-rank test over test cases against the reference, corrected",
    ),
    Column(
        "way", "way", lambda row: portion(row.way, ""),
        "share of the distance from the smallest alone to the largest of the same runs [95 %]",
    ),
]  # fmt: skip


def _names(group: Group) -> list[str]:
    """Return the architectures that all runs of a group have scores of, at all sites."""
    known = [run.results.architectures for run in group.runs]
    return [
        name
        for name in known[0]
        if all(name in one and one[name].matrix is not None for one in known)
    ]


def _of(run: Run, name: str) -> ArchitectureResults:
    return run.results.architectures[name]


def view(run: Run, name: str) -> Run:
    """Return a run as if the architecture `name` were that of all its sites."""
    own = _of(run, name)
    assert own.matrix is not None
    results = replace(
        run.results,
        matrix=own.matrix,
        cases=own.cases,
        metrics=own.metrics,
        secondary=own.secondary,
    )
    return replace(run, results=results)


def scored(run: Run, score: str) -> Run:
    """Return a run as if it were judged by another score."""
    other = run.results.secondary[score]
    return replace(run, results=replace(run.results, matrix=other.matrix, cases=other.cases))
