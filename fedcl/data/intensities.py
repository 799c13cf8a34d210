"""From an image as it was read to the size and the intensities that networks are shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedcl.data.grid import Shape
from fedcl.data.resampling import reduced, scaled

Array = np.ndarray[Any, Any]

NORMALISATIONS = ("zscore", "minmax", "minmax_clipped", "percentile", "window", "none")
CLIPPED = (0.001, 0.99)
"""What is least and most by "minmax_clipped", as in the published code of TED."""
PERCENTILES = (0.5, 99.5)
"""What becomes 0 and 1 by "percentile"."""


@dataclass(frozen=True)
class Intensities:
    """How the intensities of one channel are normalised, over the whole volume.

    Attributes:
        how: one of `NORMALISATIONS`.
        window: the intensities that become -1 and 1 ("window"), clipped beyond.
        nonzero: whether voxels that are 0 are left out of it, and stay 0 ("zscore").
    """

    how: str
    window: tuple[float, float] = (-140.0, 260.0)
    nonzero: bool = False

    def back(self, lowest: Array) -> Array:
        """Return what is added again to intensities counted from the minimum."""
        return lowest if self.fixed or self.nonzero else np.zeros_like(lowest)

    @property
    def fixed(self) -> bool:
        """Whether an intensity becomes the same in every image."""
        return self.how in ("window", "none")

    def normal(self, image: Array, region: Array | None = None) -> Array:
        """Return a channel normalised; only what lies in `region` has a say.

        Raises:
            ValueError: nothing is left of it.
        """
        if self.how == "none":
            return image
        if self.how == "window":
            low, high = self.window
            shown: Array = ((image - (low + high) / 2) / ((high - low) / 2)).clip(-1, 1)
            if shown.min() == shown.max():
                raise ValueError(
                    "the window leaves nothing of it; change scenario.window, or "
                    "scenario.normalise for images other than CT"
                )
            return shown
        if region is not None or self.nonzero or self.how == "percentile":
            found = self._within(image, region)
        else:
            from monai import transforms as mt  # takes seconds

            change: Any = mt.NormalizeIntensity() if self.how == "zscore" else mt.ScaleIntensity()
            found = np.asarray(change(image))
        return found.clip(*CLIPPED) if self.how == "minmax_clipped" else found

    def _within(self, image: Array, region: Array | None) -> Array:
        """Return a channel normalised by what counts of it; the rest becomes its minimum."""
        counts = np.ones(image.shape, bool) if region is None else region
        if self.nonzero:
            counts = counts & (image != 0)
        if not counts.any():
            return np.zeros_like(image)
        values = image[counts].astype(np.float64)
        if self.how == "zscore":
            middle, width = values.mean(), values.std()
        else:
            ends = PERCENTILES if self.how == "percentile" else (0.0, 100.0)
            middle, high = np.percentile(values, ends)
            width = high - middle
        normal = (image - middle) / (width if width > 0 else 1.0)
        if self.how == "percentile":
            normal = normal.clip(0, 1)
        outside = 0.0 if self.nonzero and self.how == "zscore" else normal[counts].min()
        found: Array = np.where(counts, normal, outside).astype(np.float32)
        return found


def shown(
    image: Array, shape: Shape, ways: Sequence[Intensities], region: Array | None = None
) -> Array:
    """Return an image as networks are shown it.

    Args:
        image: float32, as it was read, (C, slices, rows, columns).
        shape: slices, rows and columns to which it is brought.
        ways: how each of its channels is normalised.
        region: where voxels count, bool, (slices, rows, columns); None where all do.

    Returns:
        float32, shape (C, *shape).

    Raises:
        ValueError: nothing is left of a channel.
    """
    if shape != image.shape[1:]:
        if region is not None:
            # What lies outside must not shine in when voxels are averaged.
            inside = image[:, region].mean(axis=1, dtype=np.float64).astype(np.float32)
            stays = np.stack([region | way.fixed for way in ways])
            image = np.where(stays, image, inside[:, None, None, None])
            region = reduced(region.astype(np.uint8), shape).numpy() > 0
        # Counted from its minimum, what is constant stays so when it is resampled: otherwise
        # rounding would leave a pattern that normalising blows up.
        lowest = image.min((1, 2, 3), keepdims=True)
        back = [way.back(one) for way, one in zip(ways, lowest, strict=True)]
        image = scaled(image - lowest, shape).numpy() + np.stack(back)
    normal = [way.normal(one, region) for way, one in zip(ways, image, strict=True)]
    return np.stack(normal).astype(np.float32)
