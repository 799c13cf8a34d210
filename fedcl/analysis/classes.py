"""Runs with several classes: what each method reaches of every class by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import stdev

from fedcl.analysis.architectures import scored
from fedcl.analysis.columns import Column, number
from fedcl.analysis.runs import Group
from fedcl.analysis.statistics import by_seed
from fedcl.tasks.metrics import class_of


@dataclass(frozen=True)
class Row:
    """A class as a method learned it, over the sites that have scores of it.

    Attributes:
        method: which.
        number: of the class.
        runs: that have a score of it.
        mean, std: by figure; over seeds, and over runs, then None of one run.
    """

    method: str
    number: int
    runs: int
    mean: dict[str, float | None]
    std: dict[str, float | None]


FIGURES = ("avg", "bwt", "plasticity", "worst_site")


def names(groups: Sequence[Group]) -> list[str]:
    """Return the scores of single classes that all runs have; none where there is one class."""
    runs = [run.results.metrics_by_class for group in groups for run in group.runs]
    return [name for name in runs[0] if all(name in one for one in runs)]


def by(groups: Sequence[Group], score: str) -> list[Group]:
    """Return runs as if they were judged by the score of a class."""
    return [replace(group, runs=[scored(run, score) for run in group.runs]) for group in groups]


def table(groups: Sequence[Group]) -> list[Row]:
    """Return a row per class and method, in the order of the methods."""
    return [_row(group, score) for score in names(groups) for group in groups]


def _row(group: Group, score: str) -> Row:
    found = [run.results.metrics_by_class[score] for run in group.runs]
    known = {name: [v for one in found if (v := one.get(name)) is not None] for name in FIGURES}
    # A mean over fewer runs would look like one over all.
    known = {name: values if len(values) == len(found) else [] for name, values in known.items()}
    return Row(
        method=group.name,
        number=class_of(score),
        runs=len(found),
        mean={n: by_seed(group.runs, values) if values else None for n, values in known.items()},
        std={name: stdev(values) if len(values) > 1 else None for name, values in known.items()},
    )


COLUMNS = [
    Column("class", "class", lambda row: str(row.number), "its number, background's being 0"),
    Column("strategy", "strategy", lambda row: row.method, "the method"),
    Column("runs", "runs", lambda row: str(row.runs), "how many there are"),
    Column("avg", "AVG", lambda r: number(r.mean["avg"]), "mean of the sites seen that mark it"),
    Column("avg_std", "± AVG", lambda r: number(r.std["avg"]), "over runs"),
    Column("bwt", "BWT", lambda r: number(r.mean["bwt"]), "below 0 is forgetting of this class"),
    Column("bwt_std", "± BWT", lambda r: number(r.std["bwt"]), "over runs"),
    Column(
        "plasticity", "plasticity", lambda row: number(row.mean["plasticity"]),
        "score of a site when it last trained",
    ),
    Column(
        "worst_site", "worst site", lambda row: number(row.mean["worst_site"]),
        "least score of the last row",
    ),
]  # fmt: skip
