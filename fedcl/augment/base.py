"""What every augmentation offers, and the way to MONAI's transforms."""

import copy
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fedcl.data.samples import Change, Sample

if TYPE_CHECKING:  # takes seconds
    from monai.transforms import Compose

IMAGE, LABEL = "image", "label"
BOTH = (IMAGE, LABEL)


@dataclass
class Augmentation(ABC):
    """A family of changes to training images; a subclass's fields are its settings."""

    @abstractmethod
    def transforms(self, dims: int) -> Sequence[Any]:
        """Return MONAI's transforms of dictionaries with `IMAGE` and `LABEL`, in order.

        Args:
            dims: of an image, 2 or 3; images are (C, ...) with normalised intensities, labels
                (1, ...), both float32 and on the training's device.
        """

    def change(self, dims: int) -> Change | None:
        """Return what makes another sample of one; None where nothing is changed."""
        transforms = self.transforms(dims)
        return Transformed(transforms) if transforms else None


class Transformed:
    """Applies transforms to samples; what they draw comes from a sample's own randomness.

    MONAI's transforms hold what they have drawn: every thread has its own.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        from monai.data.meta_obj import set_track_meta
        from monai.transforms import Compose

        set_track_meta(False)  # tensors that carry the history of their changes are slower
        self._first = Compose(list(transforms))
        self._own = threading.local()

    def __call__(self, image: Tensor, labels: Tensor, rng: np.random.Generator) -> Sample:
        """Return a sample changed; see `Change`."""
        transforms = self._of_thread()
        transforms.set_random_state(state=np.random.RandomState(rng.integers(2**32)))
        found: Any = transforms({IMAGE: image, LABEL: labels.float()})
        return found[IMAGE].contiguous(), found[LABEL].round().long()

    def _of_thread(self) -> "Compose":
        if not hasattr(self._own, "transforms"):
            self._own.transforms = copy.deepcopy(self._first)
        made: Compose = self._own.transforms
        return made


def turns(degrees: float, dims: int) -> tuple[float, ...]:
    """Return by how many radians images may be turned about each axis that they have."""
    return (math.radians(degrees),) * (1 if dims == 2 else 3)
