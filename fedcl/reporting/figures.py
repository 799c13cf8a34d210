"""The pictures of a run: matrix, curves of remembering, test cases, frames of a field."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedcl.data.grid import Array
from fedcl.files import write_atomically
from fedcl.server.metrics import title_of
from fedcl.server.results import Results
from fedcl.tasks.base import Picture

# Okabe & Ito's colours can be told apart without colour vision; so can the line styles.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
LARGEST = 60.0
"""Inches."""
MANY = 60
"""Sites, or stages, above which figures show them without names and numbers of their own."""


def draw(results: Results, pictures: Sequence[Picture], legend: str, folder: Path) -> list[Path]:
    """Write the figures of a run.

    Args:
        results: as in results.json.
        pictures: of test cases.
        legend: what they show.
        folder: gets `timeline.png`, `matrix.png`, `forgetting.png`, where there are pictures
            `overlays.png` and, of a field, `frames.png`.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "timeline": _timeline(results),
        "matrix": _matrix(results),
        "forgetting": _curves(results),
    }
    if pictures:
        figures["overlays"] = _overlays(pictures[:MANY], legend)
    frames = sum(map(len, results.cases.values()))
    if results.case == "frame" and frames > 1:
        figures["frames"] = _frames(results)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        save(figure, paths[-1])
    return paths


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())


def _timeline(results: Results) -> Figure:
    """Who is there, who trains (as high as the share of its cases), who is away, who failed."""
    sites, rounds = results.sites, results.rounds_per_stage
    stages = len(results.arrivals)
    if max(len(sites), stages) > MANY:
        return _presence(results)
    figure, axes = _figure(2.5 + max(3.5, 0.09 * rounds * stages), 1.9 + 0.35 * len(sites))
    away: dict[str, Any] = {
        "facecolor": "white",
        "edgecolor": "black",
        "hatch": "////",
        "linewidth": 0.0,
    }
    lost: dict[str, Any] = {"marker": "x", "linestyle": "", "color": COLOURS[3], "markersize": 5}
    for row, site in enumerate(sites):
        for stage, share in enumerate(results.presence[site]):
            if share is None:
                continue
            left = stage * rounds + 0.5
            axes.barh(row, rounds, left=left, height=0.8, color=COLOURS[5], alpha=0.25)
            if site in results.cohorts[stage]:
                axes.barh(
                    row + 0.4 - 0.4 * share, rounds, left=left, height=0.8 * share,
                    color=COLOURS[0],
                )  # fmt: skip
        gone = results.away.get(site, [])
        axes.barh([row] * len(gone), 1, left=[r - 0.5 for r in gone], height=0.8, **away)
        failures = [f for f in results.failures if f["site"] == site]
        when = [f["round"] for f in failures if f["what"] == "update"]
        when += [f["round"] + 1 for f in failures if f["what"] == "arrival"]
        axes.plot(when, [row] * len(when), **lost)
    for stage in range(1, stages):
        axes.axvline(stage * rounds + 0.5, color="black", linewidth=0.6)
    axes.set_xlim(0.5, stages * rounds + 0.5)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.set_yticks(range(len(sites)), sites)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round (lines: a new stage)")
    signs = [
        Patch(color=COLOURS[0], label="trains, on that share of its cases"),
        Patch(color=COLOURS[5], alpha=0.25, label="is there"),
        Patch(label="away for a round", **away),
        Line2D([], [], label="nothing usable came", **lost),
    ]
    figure.legend(handles=signs, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _presence(results: Results) -> Figure:
    """Who is there and who trains, stage by stage, of more sites than can be told apart."""
    sites, stages = results.sites, len(results.arrivals)
    shown = np.array([[share is not None for share in results.presence[s]] for s in sites], int)
    for stage, cohort in enumerate(map(set, results.cohorts)):
        shown[[site in cohort for site in sites], stage] = 2
    figure, axes = _figure(7.0, 6.0)
    colours = ListedColormap(["white", "#CFE8F7", COLOURS[0]])
    extent = (0.5, stages + 0.5, len(sites) + 0.5, 0.5)
    axes.imshow(shown, cmap=colours, vmin=0, vmax=2, aspect="auto", extent=extent)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("stage")
    axes.set_ylabel("site, in order of arrival")
    signs = [Patch(color=colours(2), label="trains"), Patch(color=colours(1), label="is there")]
    figure.legend(handles=signs, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return figure


def _matrix(results: Results) -> Figure:
    """Heat map of the score of every site after every stage."""
    sites, rows = results.sites, results.matrix
    values = np.array([[np.nan if v is None else v for v in row] for row in rows], float)
    top = 1.0 if results.score == "dice" else max(float(np.nanmax(values)), 1e-6)
    many = max(len(sites), len(rows)) > MANY
    size = (9.0, 4.0) if many else (2.2 + 0.75 * len(sites), 1.6 + 0.55 * len(rows))
    figure, axes = _figure(*size)
    image = axes.imshow(
        values, vmin=min(0.0, float(np.nanmin(values))), vmax=top, cmap="viridis",
        aspect="auto" if many else "equal",
    )  # fmt: skip
    figure.colorbar(image, ax=axes, label=title_of(results.score))
    axes.set_title(_run(results) + (" (bold: trained)" if not many else ""), size=10)
    if many:
        axes.set_xlabel("site, in order of arrival, from 0")
        axes.set_ylabel("stage, from 0")
        return figure
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value < 0.6 * top
            trained = sites[column] in results.stages[row]
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center",
                color="white" if dark else "black", weight="bold" if trained else "normal",
            )  # fmt: skip
    axes.set_xticks(range(len(sites)), sites)
    axes.set_yticks(range(len(rows)), [f"stage {n}" for n in range(1, len(rows) + 1)])
    return figure


def _curves(results: Results) -> Figure:
    """Score of each site over the stages, from the one in which it first trained."""
    figure, axes = _figure(6.2, 3.8)
    stages, every = range(1, len(results.matrix) + 1), -(-len(results.sites) // MANY)
    cohorts = [set(cohort) for cohort in results.stages]
    for number, site in enumerate(results.sites):
        first = next((t for t, cohort in enumerate(cohorts) if site in cohort), None)
        if first is None or number % every:
            continue
        column = np.array([row[number] for row in results.matrix], float)  # NaN for None
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": STYLES[number % len(STYLES)],
        }
        axes.plot(stages[: first + 1], column[: first + 1], alpha=0.3, **style)
        axes.plot(stages[first:], column[first:], marker="o", label=site, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("stage (faint: before the site arrived)")
    axes.set_ylabel(title_of(results.score))
    axes.set_title(_run(results) + (f", one site of {every}" if every > 1 else ""), size=10)
    axes.grid(alpha=0.3)
    if every == 1:
        axes.legend(title="site", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _frames(results: Results) -> Figure:
    """PSNR and SSIM of every frame after every stage, frames in order of arrival."""
    figure = Figure(figsize=(9.0, 3.6), dpi=130, layout="constrained")
    scores = (("PSNR (dB)", results.cases), ("SSIM", results.secondary["ssim"].cases))
    for axes, (name, cases) in zip(figure.subplots(1, 2), scores, strict=True):
        frames = [values for site in results.sites for values in cases[site].values()]
        for stage in range(len(results.matrix)):
            series = [np.nan if f[stage] is None else f[stage] for f in frames]
            style = STYLES[stage % len(STYLES)]
            axes.plot(
                range(1, len(frames) + 1), series, label=str(stage + 1), marker=".",
                color=COLOURS[stage % len(COLOURS)], linestyle=style,
            )  # fmt: skip
        axes.set_xlabel("frame, in order of arrival, from 1")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
    axes.legend(title="after stage", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(_run(results), size=10)
    return figure


def _overlays(pictures: Sequence[Picture], legend: str) -> Figure:
    """Test cases with the outlines of label and prediction."""
    height, width = pictures[0].image.shape
    across = width / height
    columns = min(max(1, round(6 / across)), len(pictures))
    rows = -(-len(pictures) // columns)
    figure = Figure(
        figsize=(2.0 * columns * across, 2.2 * rows + 0.5), dpi=130, layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture in zip(grid.flat, pictures, strict=False):
        draw_case(axes, picture)
        axes.set_title(picture.title, size=7)
    figure.suptitle(legend, size=9, wrap=True)
    return figure


def draw_case(axes: Axes, picture: Picture) -> None:
    """Draw an image, the label outlined and the prediction filled, each in its class's colour."""
    axes.imshow(picture.image.numpy(), cmap="gray")
    mark(axes, picture.prediction.numpy(), filled=True)
    mark(axes, picture.label.numpy())


def colour_of(number: int) -> str:
    """Return the colour of a class, counted from 1."""
    return COLOURS[(number - 1) % len(COLOURS)]


def mark(axes: Axes, classes: Array, filled: bool = False) -> None:
    """Draw the outlines of classes, (H, W), or fill them: what lies below shines through."""
    axes.autoscale(False)
    for number in sorted({*np.unique(classes).tolist()} - {0}):
        inside = np.pad(classes == number, 1).astype(float)  # closed at the image's edges too
        down, across = (np.arange(-1, size - 1) for size in inside.shape)
        if filled:
            colours = [colour_of(number)]
            axes.contourf(across, down, inside, [0.5, 1.5], colors=colours, alpha=0.4)
        else:
            axes.contour(across, down, inside, [0.5], colors=colour_of(number), linewidths=0.9)


def _run(results: Results) -> str:
    """Return which run it is."""
    return f"{results.strategy} on {results.scenario}, seed {results.seed}"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of so many inches, of hundreds of sites no larger than can be opened."""
    figure = Figure(
        figsize=(min(width, LARGEST), min(height, LARGEST)), dpi=130, layout="constrained"
    )
    return figure, figure.subplots()
