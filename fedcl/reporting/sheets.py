"""A site's data at a glance: slices with their labels, and intensities by class."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedcl.data.grid import PLANES, Array
from fedcl.files import write_atomically
from fedcl.reporting.figures import colour_of, mark
from fedcl.tasks.base import Look

BINS = 60


def draw_sheet(site: str, looks: Sequence[Look], file: Path) -> None:
    """Write a picture of some of a site's cases, a row each.

    Slices of known planes are shown with the patient's front, or head, at the top.

    Args:
        site: whose.
        looks: at least one.
        file: PNG.
    """
    across = max(len(look.slices) for look in looks) + 1
    figure = Figure(figsize=(2.6 * across, 2.4 * len(looks)), dpi=110, layout="constrained")
    figure.suptitle(f"{site}: labels by class, intensities as networks are shown them", size=9)
    rows = figure.subplots(len(looks), across, squeeze=False)
    for look, row in zip(looks, rows, strict=True):
        for axes, plane in zip(row, look.slices, strict=False):
            image, labels, high = look.slices[plane]
            draw_slice(axes, image.numpy(), labels.numpy(), high, plane)
            axes.set_title(f"{look.title}, {plane}", fontsize=7)
        for axes in row[:-1]:
            axes.set_axis_off()
        _draw_values(row[-1], look)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(file, picture.getvalue())


def draw_slice(
    axes: Axes, image: Array, labels: Array, high: float, plane: str, white: float | None = None
) -> None:
    """Draw a slice and the outlines of its classes.

    Args:
        axes: where.
        image: grey values (H, W), or colours (H, W, 3).
        labels: classes, (H, W).
        high: how much higher than wide a pixel is.
        plane: one of `PLANES`, and the patient's front, or head, is at the top; or any word.
        white: the value that is shown white, if 0 is black; None, and values are spread.
    """
    origin: Literal["lower", "upper"] = "lower" if plane in PLANES else "upper"
    black = None if white is None else 0.0
    axes.imshow(image, cmap="gray", aspect=high, origin=origin, vmin=black, vmax=white)
    mark(axes, labels)


def _draw_values(axes: Axes, look: Look) -> None:
    """Draw how often each intensity is, class by class."""
    every = [values.numpy() for values in look.values.values()]
    low, high = min(one.min() for one in every), max(one.max() for one in every)
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for number, (name, values) in enumerate(zip(look.values, every, strict=True)):
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, color=colour_of(number) if number else "#888888", label=name)
    axes.legend(fontsize=6)
    axes.tick_params(labelsize=6)
    axes.set_yticks([])
