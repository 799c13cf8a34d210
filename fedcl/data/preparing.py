"""From an image as it was read to what networks are shown: grid and intensities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedcl.data.grid import Shape
from fedcl.data.intensities import NORMALISATIONS, Intensities, shown
from fedcl.data.labels import IGNORED
from fedcl.data.reading import Pair
from fedcl.data.resampling import in_spacing, reduced, stretched
from fedcl.data.scans import Scan
from fedcl.errors import ConfigError

Array = np.ndarray[Any, Any]

MOST = 2**30
"""Voxels of an image that can be meant."""


@dataclass(frozen=True)
class Preparation:
    """What is made of an image; all of it goes into the name under which it is cached.

    Attributes:
        spacing: in mm that voxels are brought to, of (row, column) or (slice, row, column);
            empty, and they stay.
        resize: rows and columns, or slices, rows and columns, to which an image is stretched;
            empty, and it is not.
        normalise: one of `NORMALISATIONS` for all channels, or one for each; over the whole volume.
        window: the intensities that become -1 and 1 ("window"), clipped beyond.
        nonzero: whether voxels that are 0 are left out of it, and stay 0 ("zscore").
        margin: of slices, how many are kept above and below those with a label; None for all.
    """

    spacing: tuple[float, ...] = ()
    resize: tuple[int, ...] = ()
    normalise: str | tuple[str, ...] = "zscore"
    window: tuple[float, float] = (-140.0, 260.0)
    nonzero: bool = False
    margin: int | None = None

    def __call__(self, pair: Pair) -> list[Scan]:
        """Return an image as networks are shown it, in parts that are scored each by itself.

        There are several where slices between them are left out (`margin`).

        Raises:
            ValueError: nothing is left of it, or it cannot be brought to the spacing.
        """
        shape, image, runs = self.shape(pair), pair.image, self._runs(pair.labels)
        normal = shown(image, shape, self.intensities(len(image)), pair.region)
        lowest = normal.min(axis=(1, 2, 3)).tolist()
        labels = reduced(pair.labels, shape).numpy()
        return [
            Scan.of(
                torch.from_numpy(np.ascontiguousarray(normal[:, part], dtype=np.float32)),
                torch.from_numpy(np.ascontiguousarray(labels[part])),
                pair.spacing,
                torch.from_numpy(np.ascontiguousarray(pair.labels[part])),
                pair.plane,
                lowest,
            )
            for part in runs
        ]

    def _runs(self, labels: Array) -> Sequence[Array | slice]:
        """Return which slices are used, unbroken run by run."""
        if self.margin is None:
            return [slice(None)]
        marked = np.flatnonzero(((labels > 0) & (labels != IGNORED)).any(axis=(1, 2)))
        if not len(marked):
            raise ValueError("no label in its mask; scenario.margin=null keeps all slices")
        apart = np.abs(np.arange(len(labels))[:, None] - marked)
        kept = np.flatnonzero((apart <= self.margin).any(axis=1))
        return np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1)

    def shape(self, pair: Pair) -> Shape:
        """Return slices, rows and columns that networks are shown of an image."""
        slices, rows, columns = pair.image.shape[1:]
        there = (slices, rows, columns)
        if self.resize:
            full = stretched(there, self.resize)
        elif self.spacing:
            if not pair.measured:
                raise ValueError(
                    "it does not say how large its voxels are; take scenario.spacing=null, or "
                    "scenario.resize"
                )
            full = in_spacing(there, pair.spacing, self.spacing)
        else:
            return there
        if math.prod(full) > MOST:
            key = "resize" if self.resize else "spacing"
            raise ValueError(
                f"scenario.{key}: {'x'.join(map(str, there))} voxels would become "
                f"{'x'.join(map(str, full))}; take a larger spacing or a smaller size"
            )
        return full

    def ways(self, channels: int) -> tuple[str, ...]:
        """Return how every channel is normalised.

        Raises:
            ValueError: there are more or fewer than it is told of.
        """
        if isinstance(self.normalise, str):
            return (self.normalise,) * channels
        if len(self.normalise) != channels:
            raise ValueError(
                f"{channels} channels, but scenario.normalise, or dataset.json in its place, names "
                f"{len(self.normalise)}; give scenario.normalise"
            )
        return self.normalise

    def intensities(self, channels: int) -> list[Intensities]:
        """Return how every channel is normalised, in full; errors as of `ways`."""
        return [Intensities(how, self.window, self.nonzero) for how in self.ways(channels)]


def ways(given: Any, modalities: Sequence[str] = (), chosen: Sequence[int] = ()) -> list[str]:
    """Return how channels are normalised: one way for all of them, or one for each.

    Args:
        given: one of `NORMALISATIONS`, a list of one for each channel that is taken, or "auto".
        modalities: how every channel in the files was taken, such as "CT", where that is known.
        chosen: the channels that are taken; empty for all.

    Raises:
        ConfigError: it is none of these.
    """
    if given == "auto":
        taken = [modalities[n] for n in chosen if n < len(modalities)] if chosen else modalities
        given = ["window" if one.casefold() == "ct" else "zscore" for one in taken] or "zscore"
    listed = given if isinstance(given, list) else [given]
    if not listed or not all(one in NORMALISATIONS for one in listed):
        raise ConfigError(
            f"scenario.normalise: give auto, one of {', '.join(NORMALISATIONS)}, or a list of one "
            f"of them for each channel, got {given!r}"
        )
    return listed if len({*listed}) > 1 else listed[:1]


def sizes(value: Any, dims: int, key: str, low: int = 1, high: int = 2048) -> tuple[int, ...]:
    """Return the sizes that a setting gives along the axes: a number for all, or a list.

    Raises:
        ConfigError: it gives none.
    """
    if value is None:
        return ()
    numbers = list(value) if isinstance(value, list | tuple) else [value] * dims
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != dims or not whole or not all(low <= n <= high for n in numbers):
        axes = "rows and columns" if dims == 2 else "slices, rows and columns"
        raise ConfigError(
            f"{key}: give a whole number from {low} to {high}, or a list of {dims} ({axes}), got "
            f"{value!r}"
        )
    if math.prod(numbers) > MOST:
        raise ConfigError(f"{key}: {value!r} makes more than {MOST} voxels")
    return tuple(numbers)


def distances(value: Any, dims: int, key: str) -> tuple[float, ...]:
    """Return the spacing that a setting gives, in mm, along the axes; empty where it gives none.

    Raises:
        ConfigError: it is no spacing.
    """
    if value is None:
        return ()
    numbers = list(value) if isinstance(value, list | tuple) else [value] * dims
    known = all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers)
    if len(numbers) != dims or not known or not all(0.001 <= n <= 1000 for n in numbers):
        raise ConfigError(
            f"{key}: give a number of mm from 0.001 to 1000 or a list of {dims}, in the order "
            f"{'row, column' if dims == 2 else 'slice, row, column'}, got {value!r}"
        )
    return tuple(float(n) for n in numbers)
