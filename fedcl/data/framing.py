"""Images in the sizes that a network takes: padded, and answered window by window."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

VOXELS = 2**18
"""How many a forward pass without gradient may have: it bounds the memory that it takes."""
IMAGES = 64
"""How many images it may have."""
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Framing:
    """The sizes in which a network is shown images, along the axes of an image.

    Attributes:
        window: of a sample, by which larger images are answered; empty where images are shown
            whole.
        least: to which whole images are padded at least; empty for any.
        multiples: of what sizes are multiples; empty for any.
        overlap: of the windows.
    """

    window: tuple[int, ...] = ()
    least: tuple[int, ...] = ()
    multiples: tuple[int, ...] = ()
    overlap: float = 0.5

    def whole(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return a size that a network can take, no smaller."""
        return whole(size, self.multiples)

    def answered(
        self, images: Tensor, lowest: Sequence[float], network: Network, answer: Network
    ) -> Tensor:
        """Return the answers to whole images, (N, C, ...), shape (N, K, ...).

        Images larger than a window are answered window by window, logits weighted by a Gaussian.

        Args:
            images: of equal sizes.
            lowest: what each channel is padded with.
            network: from images to logits, without gradient.
            answer: from logits to answers.
        """
        there = images.shape[2:]
        smallest = self.window or self.least or there
        size = self.whole([max(sizes) for sizes in zip(there, smallest, strict=True)])
        before = [-start for start in centred(there, size)]
        full = torch.stack([padded(image, before, size, lowest) for image in images])
        if size == (self.window or size):
            found = [answer(network(part)) for part in full.split(at_once(size))]
        else:
            found = [answer(self._windowed(one, network)) for one in full.split(1)]
        box = [slice(start, start + old) for start, old in zip(before, there, strict=True)]
        return torch.cat(found)[:, :, *box]

    def _windowed(self, image: Tensor, network: Network) -> Tensor:
        """Return the logits of an image, (1, C, ...), window by window."""
        from monai.inferers import SlidingWindowInferer  # takes seconds

        inferer = SlidingWindowInferer(
            self.window, at_once(self.window), self.overlap, mode="gaussian", progress=False
        )
        return torch.as_tensor(inferer(image, network))


def at_once(size: Sequence[int]) -> int:
    """Return how many images of a size pass through a network at a time."""
    return min(IMAGES, max(1, VOXELS // math.prod(size)))


def whole(size: Sequence[int], multiples: Sequence[int]) -> tuple[int, ...]:
    """Return a size that a network can take, no smaller; `multiples` may be empty, as may it."""
    if not multiples or not size:
        return tuple(size)
    full = [-(-n // by) * by for n, by in zip(size, multiples, strict=True)]
    if full == list(multiples):  # a single voxel at the bottom has no mean and deviation
        full[-1] *= 2
    return tuple(full)


def centred(there: Sequence[int], size: Sequence[int]) -> list[int]:
    """Return where a part about the centre begins along each axis; below 0 in the padding."""
    return [(length - wanted) // 2 for length, wanted in zip(there, size, strict=True)]


def padded(
    image: Tensor, before: Sequence[int], size: Sequence[int], values: Sequence[float]
) -> Tensor:
    """Return an image, (C, ...), with a border.

    Args:
        image: to be padded.
        before: width of the border before the image, along each axis.
        size: of the result.
        values: of the border, channel by channel.
    """
    there = image.shape[1:]
    if tuple(there) == tuple(size):
        return image
    border: list[int] = []
    for axis in reversed(range(len(size))):
        border += [before[axis], size[axis] - there[axis] - before[axis]]
    return torch.stack(
        [F.pad(one, border, value=value) for one, value in zip(image, values, strict=True)]
    )
