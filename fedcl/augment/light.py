"""A little of everything: what any segmentation bears."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedcl.augment.base import BOTH, IMAGE, Augmentation, turns
from fedcl.settings import setting


@dataclass
class Light(Augmentation):
    """Small turns and changes of size, brightness and contrast, and a little noise.

    Volumes are turned about all axes, voxel by voxel: where slices are much thicker than pixels,
    bring them to equal voxels (scenario.spacing), or take degrees=0.

    Attributes:
        flip: chance to mirror an image along each axis; 0 where left and right differ.
        degrees: by which it is turned at most.
        scale: share by which it is enlarged or made smaller at most.
        intensity: share by which contrast, and of a standard deviation brightness, change at most.
        noise: standard deviation of what is added to every fifth image.
    """

    flip: float = setting(0.0, low=0, high=1)
    degrees: float = setting(15.0, low=0, high=180)
    scale: float = setting(0.15, low=0, high=0.9)
    intensity: float = setting(0.2, low=0, high=0.9)
    noise: float = setting(0.05, low=0)

    def transforms(self, dims: int) -> Sequence[Any]:
        """Return them; see `Augmentation.transforms`."""
        from monai import transforms as mt  # takes seconds

        flips = [mt.RandFlipd(BOTH, self.flip, axis) for axis in range(dims if self.flip else 0)]
        return [
            *flips,
            mt.RandAffined(
                BOTH, prob=0.8, rotate_range=turns(self.degrees, dims),
                scale_range=(self.scale,) * dims, mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            mt.RandScaleIntensityd(IMAGE, factors=self.intensity, prob=0.5),
            mt.RandShiftIntensityd(IMAGE, offsets=self.intensity, prob=0.5),
            mt.RandGaussianNoised(IMAGE, prob=0.2, std=self.noise),
        ]  # fmt: skip
