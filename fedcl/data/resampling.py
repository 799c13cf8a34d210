"""Between an image's own grid and the grid of the network, slice by slice."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.labels import IGNORED

Array = np.ndarray[Any, Any]
EVEN = 1e-4
"""Shares of a pixel that differ by less count as equal."""


def scaled(images: Array, size: tuple[int, int]) -> Tensor:
    """Return slices in another size.

    Along an axis that gets shorter, every pixel is the mean of what it covers, so that nothing
    small is passed over; along one that gets longer, it is interpolated linearly.

    Args:
        images: float32, shape (D, H, W).
        size: height and width.

    Returns:
        float32, shape (D, *size).
    """
    (height, width), (rows, columns) = images.shape[1:], size
    new = np.empty((len(images), *size), np.float32)
    for number, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image, np.float32))
        picture = picture.resize((width, rows), _kind(height, rows))  # Pillow: columns first
        picture = picture.resize((columns, rows), _kind(width, columns))
        new[number] = np.asarray(picture)
    return torch.from_numpy(new)


def _kind(old: int, new: int) -> Image.Resampling:
    return Image.Resampling.BOX if new < old else Image.Resampling.BILINEAR


def reduced(labels: Array, classes: int, size: tuple[int, int]) -> Tensor:
    """Return label maps in another size: the class that covers most of a pixel.

    Of classes with even shares the later one is taken, so that a structure stays rather than
    background.

    Args:
        labels: uint8, shape (D, H, W); may hold `IGNORED`.
        classes: how many there are.
        size: height and width.

    Returns:
        uint8, shape (D, *size).
    """
    if labels.shape[1:] == size:
        return torch.from_numpy(labels.copy())
    values = [*range(classes), *([IGNORED] if (labels == IGNORED).any() else [])]
    best = np.full((len(labels), *size), -1.0, np.float32)
    found = np.zeros(best.shape, np.uint8)
    for value in values:
        for depth, there in enumerate(labels == value):
            if there.any():
                share = Image.fromarray(there.astype(np.float32))
                covered = np.asarray(share.resize(size[::-1], Image.Resampling.BOX))
                more = covered > best[depth] - EVEN
                more &= covered > EVEN
                best[depth][more], found[depth][more] = covered[more], value
    return torch.from_numpy(found)


def restored(answers: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the most probable class of every pixel of an image's own grid.

    Args:
        answers: class probabilities on the network's grid, shape (D, K, h, w).
        size: height and width of the own grid; probabilities are brought there bilinearly.

    Returns:
        Class indices, shape (D, *size).
    """
    if answers.shape[-2:] == size:
        return answers.max(1).indices
    return torch.cat(
        [
            F.interpolate(one, size, mode="bilinear", align_corners=False, antialias=True)
            .max(1)
            .indices
            for one in answers.split(1)
        ]
    )
