"""From an image as it was read to what networks are shown: grid and intensities."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedcl.data.labels import IGNORED
from fedcl.data.reading import Pair
from fedcl.data.resampling import reduced, scaled
from fedcl.data.scans import Scan, Shape
from fedcl.errors import ConfigError

Array = np.ndarray[Any, Any]

NORMALISATIONS = ("zscore", "minmax", "percentile", "window", "none")
MOST = 2**30
"""Voxels of an image that can be meant."""
PERCENTILES = (0.5, 99.5)
"""What becomes 0 and 1 by "percentile"."""


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
        ways = self.ways(len(image))
        if shape != image.shape[1:]:
            # Counted from its minimum, what is constant stays so when it is resampled: otherwise
            # rounding would leave a pattern that normalising blows up.
            lowest = image.min((1, 2, 3), keepdims=True)
            back = [self._back(how, one) for how, one in zip(ways, lowest, strict=True)]
            image = scaled(image - lowest, shape).numpy() + np.stack(back)
        counts = pair.labels != IGNORED
        region = None if counts.all() else reduced(counts.astype(np.uint8), shape).numpy() > 0
        normal = np.stack(
            [self._normal(how, one, region) for how, one in zip(ways, image, strict=True)]
        )
        labels = reduced(pair.labels, shape).numpy()
        return [
            Scan.of(
                torch.from_numpy(np.ascontiguousarray(normal[:, part], dtype=np.float32)),
                torch.from_numpy(np.ascontiguousarray(labels[part])),
                pair.spacing,
                torch.from_numpy(np.ascontiguousarray(pair.labels[part])),
                pair.plane,
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
            wanted: Sequence[int] = self.resize
        elif self.spacing:
            if not pair.measured:
                raise ValueError(
                    "it does not say how large its voxels are; take scenario.spacing=null, or "
                    "scenario.resize"
                )
            axes = len(self.spacing)
            across = zip(there[-axes:], pair.spacing[-axes:], self.spacing, strict=True)
            wanted = [max(1, round(n * own / new)) for n, own, new in across]
        else:
            return there
        full = (*there[: 3 - len(wanted)], *wanted)
        if math.prod(full) > MOST:
            key = "resize" if self.resize else "spacing"
            raise ValueError(
                f"scenario.{key}: {'x'.join(map(str, there))} voxels would become "
                f"{'x'.join(map(str, full))}; take a larger spacing or a smaller size"
            )
        return full[0], full[1], full[2]

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

    def _back(self, how: str, lowest: Array) -> Array:
        """Return what is added again to intensities counted from the minimum."""
        return lowest if how in ("window", "none") or self.nonzero else np.zeros_like(lowest)

    def _normal(self, how: str, image: Array, region: Array | None) -> Array:
        """Return one channel normalised; only what lies in `region` has a say."""
        if how == "none":
            return image
        if how == "window":
            low, high = self.window
            shown: Array = ((image - (low + high) / 2) / ((high - low) / 2)).clip(-1, 1)
            if shown.min() == shown.max():
                raise ValueError(
                    "the window leaves nothing of it; change scenario.window, or "
                    "scenario.normalise for images other than CT"
                )
            return shown
        if region is not None or self.nonzero or how == "percentile":
            return self._within(how, image, region)
        from monai import transforms as mt  # takes seconds

        change: Any = mt.NormalizeIntensity() if how == "zscore" else mt.ScaleIntensity()
        found: Array = np.asarray(change(image))
        return found

    def _within(self, how: str, image: Array, region: Array | None) -> Array:
        """Return one channel normalised by what counts of it; the rest becomes its minimum."""
        counts = np.ones(image.shape, bool) if region is None else region
        if self.nonzero:
            counts = counts & (image != 0)
        if not counts.any():
            return np.zeros_like(image)
        values = image[counts].astype(np.float64)
        if how == "zscore":
            middle, width = values.mean(), values.std()
        else:
            ends = (0.0, 100.0) if how == "minmax" else PERCENTILES
            middle, high = np.percentile(values, ends)
            width = high - middle
        normal = (image - middle) / (width if width > 0 else 1.0)
        if how == "percentile":
            normal = normal.clip(0, 1)
        outside = 0.0 if self.nonzero and how == "zscore" else normal[counts].min()
        found: Array = np.where(counts, normal, outside).astype(np.float32)
        return found


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
        given = ["window" if one == "CT" else "zscore" for one in taken] or "zscore"
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
