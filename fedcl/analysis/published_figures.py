"""Figures of a published table: its numbers in panels, and test cases as the methods see them."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedcl.analysis.published import FIGURES, FURTHER, Entry, Measure, known
from fedcl.reporting.figures import COLOURS, STYLES, draw_case
from fedcl.tasks.base import Picture

Pictures = Mapping[str, Mapping[str, Picture]]
"""By the title of a row and the site: a test case with what the row's model says of it."""


def panels(found: Sequence[Entry], title: str) -> Figure:
    """Return the figures as bars, row by row, and the sites' scores and distances as lines.

    A diamond is what is published.
    """
    shown = {measure.name: measure for measure in known(found)}
    groups = [[m for name, m in shown.items() if name.startswith(f"{s}_")] for s in _scores(shown)]
    lines = [group for group in groups if len(group) > 1]
    by_site = {group[0].name.partition("_")[0] for group in lines}
    bars = [m for name, m in shown.items() if name in {*FIGURES, *FURTHER} - by_site]
    drawn = [*(partial(_bars, one) for one in bars), *(partial(_by_site, one) for one in lines)]
    columns = -(-len(drawn) // 2)
    figure = Figure(figsize=(5 * columns, 2.6 + 0.5 * len(found)), dpi=110, layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for axes, draw in zip_longest(grid.T.flat, drawn):
        draw(axes, found) if draw else axes.set_axis_off()
    if lines:
        handles, _ = grid.T.flat[len(bars)].get_legend_handles_labels()
        figure.legend(handles=handles, loc="outside lower center", ncols=2 * columns, fontsize=6)
    figure.suptitle(title)
    return figure


def _scores(names: Iterable[str]) -> list[str]:
    """Return the scores that single sites have, of the names of measures."""
    return list(dict.fromkeys(name.partition("_")[0] for name in names if "_" in name))


def _bars(measure: Measure, axes: Axes, found: Sequence[Entry]) -> None:
    places = np.arange(len(found))[::-1]
    for place, entry in zip(places, found, strict=True):
        mean, std = measure.spread(entry)
        if mean is not None:
            axes.barh(place, mean, height=0.7, xerr=std, color=COLOURS[0])
        if measure.name in entry.row.published:
            axes.plot(entry.row.published[measure.name], place, "D", color=COLOURS[3])
    axes.set_yticks(places, [entry.row.title for entry in found], fontsize=7)
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.axvline(0, color="black", linewidth=0.6)
    axes.set_title(measure.title, fontsize=9)


def _by_site(group: Sequence[Measure], axes: Axes, found: Sequence[Entry]) -> None:
    for number, entry in enumerate(found):
        means = [measure.spread(entry)[0] for measure in group]
        axes.plot(
            range(len(group)), [np.nan if mean is None else mean for mean in means], marker="o",
            markersize=3, linewidth=1.2, color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)], label=entry.row.title,
        )  # fmt: skip
    kind = group[0].title.split()[0]
    axes.set_xticks(range(len(group)), [one.name.partition("_")[2] for one in group], fontsize=7)
    axes.set_title(f"{kind} of every site after the last stage", fontsize=9)


def cases(pictures: Pictures, legend: str) -> Figure:
    """Return a test case of every site, in columns, as every method sees it, in rows."""
    sites = list(dict.fromkeys(site for row in pictures.values() for site in row))
    shapes = {site: one.image.shape for row in pictures.values() for site, one in row.items()}
    widths = [columns / rows for rows, columns in (shapes[site] for site in sites)]
    size = (1.8 * sum(widths) + 1, 1.8 * len(pictures) + 0.5)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.subplots(len(pictures), len(sites), squeeze=False, width_ratios=widths)
    for (title, row), line in zip(pictures.items(), grid, strict=True):
        for site, axes in zip(sites, line, strict=True):
            axes.set_xticks([])
            axes.set_yticks([])
            if site in row:
                draw_case(axes, row[site])
        line[0].set_ylabel(title, fontsize=7)
    for site, axes in zip(sites, grid[0], strict=True):
        axes.set_title(site, fontsize=8)
    figure.suptitle(legend, fontsize=9)
    return figure
