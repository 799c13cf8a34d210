"""Published tables of fields: the scores of every frame, and what lambda does to them."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedcl.analysis.columns import csv_of, number
from fedcl.analysis.published import FURTHER, Entry
from fedcl.reporting.figures import COLOURS, STYLES
from fedcl.server.metrics import title_of
from fedcl.server.results import Cases, Results

WEIGHT = "strategy.weight"
"""The setting of a run that is lambda."""


def frames(found: Sequence[Entry]) -> str:
    """Return the scores of every frame after every stage, as CSV."""
    names = list(_scored(found[0].runs[0].results))
    rows = [
        [entry.line.name, str(run.results.seed), str(stage), *row]
        for entry in found
        for run in entry.runs
        for stage in range(1, len(run.results.matrix) + 1)
        for row in _frames(run.results, stage)
    ]
    return csv_of(["row", "seed", "stage", "site", "frame", *names], rows)


def _frames(results: Results, stage: int) -> list[list[str]]:
    """Return site, name and scores of every frame that has one after a stage."""
    scored = _scored(results).values()
    rows = []
    for site in results.sites:
        for frame in sorted({name for cases in scored for name in cases.get(site, {})}):
            scores = [cases.get(site, {}).get(frame) for cases in scored]
            rows.append([site, frame, *(number(one[stage - 1] if one else None) for one in scores)])
    return [row for row in rows if any(row[2:])]


def _scored(results: Results) -> dict[str, Cases]:
    """Return every case's scores, by the names of those that are shown."""
    further = {name: results.secondary[name].cases for name in FURTHER if name in results.secondary}
    return {results.score: results.cases, **further}


def curves(found: Sequence[Entry], title: str) -> Figure:
    """Return the scores of every frame at the end, by score and variant."""
    results = found[0].runs[0].results
    shown = [name for name in _scored(results) if any(_curve(name, entry) for entry in found)]
    figure, grid = _grid(found, found, len(shown), title)
    for name, line in zip(shown, grid, strict=True):
        line[0].set_ylabel(FURTHER.get(name, title_of(name)))
        for axes, members in zip(line, _variants(found).values(), strict=True):
            for entry in members:
                curve = _curve(name, entry)
                axes.plot(list(curve), list(curve.values()), marker=".", **_look(entry, found))
    for axes in grid[-1]:
        axes.set_xlabel("frame")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _curve(name: str, entry: Entry) -> dict[int, float]:
    """Return a score at the end by the number of the frame, mean over runs."""
    values: dict[int, list[float]] = {}
    for run in entry.runs:
        for members in _scored(run.results)[name].values():
            for frame, scores in members.items():
                if scores[-1] is not None:
                    values.setdefault(int(frame.rpartition("-")[2]), []).append(scores[-1])
    return {frame: fmean(values[frame]) for frame in sorted(values)}


def sweep(found: Sequence[Entry], title: str) -> Figure:
    """Return what the first and the last to arrive have at the end, against lambda, by variant.

    Rows without a lambda of their own are level lines.
    """
    level = [entry for entry in found if _weight(entry) is None]
    figure, grid = _grid(found, level, 2, title)
    for stage, word, line in zip((0, -1), ("first", "last"), grid, strict=True):
        score = _score(found[0].runs[0].results, stage)
        line[0].set_ylabel(f"{FURTHER.get(score, title_of(score))}, what came {word}")
        for axes, members in zip(line, _variants(found).values(), strict=True):
            points = {}
            for entry in members:
                weight, value = _weight(entry), _kept(entry, stage)
                if weight is None:
                    axes.axhline(value, **_look(entry, found))
                else:
                    points[weight] = value
            order = sorted(points)
            axes.plot(order, [points[weight] for weight in order], "o-", color="black")
            axes.set_xscale("symlog", linthresh=min([one for one in order if one], default=1))
    for axes in grid[-1]:
        axes.set_xlabel("lambda")
    return figure


def _weight(entry: Entry) -> float | None:
    """Return the lambda of a row, None where it has none of its own."""
    weight = entry.runs[0].config.get(WEIGHT)
    return None if weight is None else float(weight)


def _kept(entry: Entry, stage: int) -> float:
    """Return the score at the end of the sites that arrived in a stage, mean over runs."""
    return fmean(
        fmean(_at_end(_scored(run.results)[_score(run.results, stage)], run.results, stage))
        for run in entry.runs
    )


def _score(results: Results, stage: int) -> str:
    """Return the score of the sites that arrived in a stage: of the signal or else of masks."""
    return next(n for n, cases in _scored(results).items() if _at_end(cases, results, stage))


def _at_end(cases: Cases, results: Results, stage: int) -> list[float]:
    """Return what the frames of the sites that arrived in a stage have at the end."""
    sites = results.arrivals[stage]
    last = [scores[-1] for site in sites for scores in cases.get(site, {}).values()]
    return [value for value in last if value is not None]


def _variants(found: Sequence[Entry]) -> Mapping[str, list[Entry]]:
    """Return the rows by their variants."""
    names = dict.fromkeys(entry.row.variant for entry in found)
    return {name: [entry for entry in found if entry.row.variant == name] for name in names}


def _grid(
    found: Sequence[Entry], told: Sequence[Entry], rows: int, title: str
) -> tuple[Figure, Any]:
    """Return a figure with a column per variant, titles and a legend of the rows `told`."""
    variants = _variants(found)
    size = (2.5 + 3.2 * len(variants), 0.8 + 2.5 * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(rows, len(variants), sharex=True, sharey="row", squeeze=False)
    for axes, name in zip(grid[0], variants, strict=True):
        axes.set_title(name, fontsize=9)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
    looks = {look["label"]: look for look in (_look(entry, found) for entry in told)}
    handles = [Line2D([], [], **look) for look in looks.values()]
    figure.legend(handles=handles, loc="outside right center", fontsize=7)
    figure.suptitle(title, fontsize=10)
    return figure, grid


def _look(entry: Entry, found: Sequence[Entry]) -> dict[str, Any]:
    """Return the label of a row, the same for all variants, and how its line looks."""
    labels = list(dict.fromkeys(_label(one) for one in found))
    place = labels.index(_label(entry))
    return {
        "label": labels[place],
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": STYLES[place // len(COLOURS) % len(STYLES)],
        "linewidth": 1.2,
    }


def _label(entry: Entry) -> str:
    return entry.line.name.removeprefix(f"{entry.row.variant}-")
