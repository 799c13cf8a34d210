"""An image with the outlines of its mask: the slices that show most of it, as a PNG."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedcl.data.alone import Alone
from fedcl.data.files import is_volume
from fedcl.data.grid import PLANES, Array
from fedcl.reporting.figures import colour_of
from fedcl.reporting.sheets import draw_slice

PERCENTILES = (0.5, 99.5)
"""Of an image's values: what is shown black and white."""
SLICES = 6
"""How many of a volume are shown, at most."""
ACROSS = 3
"""How many of them lie side by side."""
NAMED = 12
"""How many classes a picture names, at most."""
FINEST = 1024
"""Rows or columns of a slice that are drawn; of more, every second, third, ... one is."""
LINE = 0.25
"""Inches that a line of text takes."""
ENOUGH = 2**20
"""Values from which the percentiles are taken."""
LEFT = {"axial": "R", "coronal": "R", "sagittal": "A"}
"""What of the patient is at the left of a picture: right, or anterior."""


@dataclass(frozen=True)
class View:
    """One slice as it is drawn.

    Attributes:
        title: which it is.
        plane: of the patient, or else a word for it.
        image: (H, W), or in colours (H, W, 3).
        classes: (H, W).
        high: how much higher than wide a pixel is.
    """

    title: str
    plane: str
    image: Array
    classes: Array
    high: float


def overlay(alone: Alone, classes: Array, dims: int) -> bytes:
    """Return a picture of an image and of its mask, PNG.

    Of volumes it shows the slice with most of a label, in all three planes where networks are
    shown volumes, and a few more. Axes are as wide as in the patient, and planes of known
    orientation lie as radiologists have them: the patient's right, or front, at the left.

    Args:
        alone: the image.
        classes: its mask, (slices, rows, columns).
        dims: of what networks are shown, 2 or 3.
    """
    views = list(_views(alone, classes, dims))
    black, white = _window(alone.image if views[0].image.ndim == 3 else alone.image[:1])
    across = min(ACROSS, len(views))
    down = -(-len(views) // across)
    wide = 6.4 if len(views) == 1 else 3.2
    shape = max(len(view.image) * view.high / view.image.shape[1] for view in views)
    high = down * (wide * min(max(shape, 0.2), 1.3) + LINE) + LINE
    figure = Figure(figsize=(wide * across, high), dpi=100, facecolor="black")
    figure.subplots_adjust(0, LINE / high, 1, 1 - LINE / high, wspace=0.02, hspace=0.1)
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, view in zip(grid.flat, views, strict=False):
        image = ((view.image - black) / (white - black)).clip(0, 1)
        draw_slice(axes, image, view.classes, view.high, view.plane, white=1.0)
        axes.set_title(view.title, fontsize=8, color="white", pad=2)
        if view.plane in LEFT:
            axes.invert_xaxis()
            side = {"transform": axes.transAxes, "color": "white", "fontsize": 8, "va": "center"}
            axes.text(0.01, 0.5, LEFT[view.plane], **side)
    there = [int(number) for number in np.unique(classes) if number][:NAMED]
    lines = [
        Line2D([], [], color=colour_of(number), label=alone.labels.written(number))
        for number in there
    ]
    if lines:
        look = {"fontsize": 8, "frameon": False, "labelcolor": "white"}
        figure.legend(handles=lines, loc="lower center", ncols=len(lines), **look)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    return picture.getvalue()


def _views(alone: Alone, classes: Array, dims: int) -> Iterator[View]:
    """Yield the slices to draw: those along the axis that the image was cut across come last."""
    coloured = len(alone.image) == 3 and not is_volume(alone.file)
    image = np.moveaxis(alone.image, 0, -1) if coloured else alone.image[0]
    names = ["slice", "row", "column"]
    if alone.cut.plane in PLANES:  # volumes are cut across the patient's long axis
        names = [alone.cut.plane] if dims == 2 else [*reversed(PLANES)]
    marked = classes > 0
    for axis in (1, 2, 0) if dims == 3 and len(classes) > 1 else (0,):
        others = tuple(other for other in range(3) if other != axis)
        high, wide = (alone.cut.spacing[other] for other in others)
        along = classes.shape[axis]
        for place in chosen(marked.sum(others), 1 if axis else SLICES - 2 * (dims == 3)):
            cut, seen = image.take(place, axis), classes.take(place, axis)
            every = -(-max(seen.shape) // FINEST)
            title = f"{names[axis]} {place + 1} of {along}" if along > 1 else ""
            part = slice(None, None, every), slice(None, None, every)
            yield View(title, names[axis], cut[part], seen[part], high / wide)


def chosen(areas: Array, most: int) -> list[int]:
    """Return which slices to show, in order.

    It is the one with most of a label, and others spread over those that have any: over all where
    none has.

    Args:
        areas: how much of each slice has a label.
        most: how many.
    """
    there = np.flatnonzero(areas)
    if not len(there):
        ends = np.linspace(0, len(areas) - 1, most + 2)[1:-1]
        return sorted({*ends.round().astype(int).tolist()})
    spread = there[np.linspace(0, len(there) - 1, most + 1)[1:-1].round().astype(int)]
    return sorted({int(areas.argmax()), *spread.tolist()})


def _window(image: Array) -> tuple[float, float]:
    """Return the values that are shown black and white."""
    every = int(np.ceil(np.sqrt(max(1.0, image[0].size / ENOUGH))))
    low, high = np.percentile(image[..., ::every, ::every], PERCENTILES)
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)
