"""No augmentation: images as they are."""

from dataclasses import dataclass

from fedcl.augment.base import Augmentation


@dataclass
class NoAugmentation(Augmentation):
    """Changes nothing."""

    def transforms(self, dims: int) -> list[object]:
        """Return none."""
        return []
