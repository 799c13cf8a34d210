"""The augmentation of nnU-Net, in MONAI's transforms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedcl.augment.base import BOTH, IMAGE, Augmentation, turns
from fedcl.settings import setting


@dataclass
class NNUNet(Augmentation):
    """What nnU-Net draws (Isensee et al., Nature Methods 2021, supplement), in its order.

    Turning and scaling with probability 0.2, noise 0.1, blur 0.2, brightness 0.15, contrast 0.15,
    low resolution 0.25, gamma 0.1 on inverted and 0.3 on plain intensities, mirroring 0.5 per axis.
    Departs from it: what a turn brings in from outside is the border's value, images are turned
    within a patch instead of cut out of a larger one, volumes about all axes and voxel by voxel
    however thick their slices are, and each axis is scaled by a factor of its own.

    Attributes:
        mirror: whether images are mirrored; false where left and right differ.
        degrees: by which they are turned at most; null for 180 in 2-D and 30 in 3-D.
    """

    mirror: bool = True
    degrees: float | None = setting(None, low=0, high=180)

    def transforms(self, dims: int) -> Sequence[Any]:
        """Return them; see `Augmentation.transforms`."""
        from monai import transforms as mt  # takes seconds

        most = (180.0 if dims == 2 else 30.0) if self.degrees is None else self.degrees
        modes: dict[str, Any] = {"mode": ("bilinear", "nearest"), "padding_mode": "border"}
        gamma, width = (0.7, 1.5), (0.5, 1.0)
        return [
            mt.RandAffined(BOTH, prob=0.2, rotate_range=turns(most, dims), **modes),
            # MONAI's factors are added to 1: from 1 / 1.4 (smaller part, larger organ) to 1 / 0.7.
            mt.RandAffined(BOTH, prob=0.2, scale_range=((-0.286, 0.43),) * dims, **modes),
            mt.RandGaussianNoised(IMAGE, prob=0.1, std=0.3, sample_std=True),
            mt.RandGaussianSmoothd(IMAGE, width, width, width, prob=0.2),
            mt.RandScaleIntensityd(IMAGE, factors=0.25, prob=0.15),
            mt.RandScaleIntensityFixedMeand(
                IMAGE, factors=0.25, prob=0.15, fixed_mean=True, preserve_range=True
            ),
            mt.RandSimulateLowResolutiond(
                IMAGE,
                prob=0.25,
                zoom_range=(0.5, 1.0),
                upsample_mode="bilinear" if dims == 2 else "trilinear",
            ),
            mt.RandAdjustContrastd(
                IMAGE, prob=0.1, gamma=gamma, invert_image=True, retain_stats=True
            ),
            mt.RandAdjustContrastd(IMAGE, prob=0.3, gamma=gamma, retain_stats=True),
            *(mt.RandFlipd(BOTH, 0.5, axis) for axis in range(dims if self.mirror else 0)),
        ]
