"""Between an image's own grid and the grid of the network, slice by slice."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.labels import IGNORED

if TYPE_CHECKING:
    from scipy.sparse import csr_array

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
    across = [
        _means(old, new) if new < old else _between(old, new)
        for old, new in zip(images.shape[1:], size, strict=True)
    ]
    return torch.from_numpy(_applied(across, images).astype(np.float32))


def _means(old: int, new: int) -> "csr_array":
    """Return the weights by which pixels of an axis become the means of what new ones cover."""
    from scipy.sparse import csr_array

    edges = np.arange(new + 1) * (old / new)
    first = np.floor(edges[:-1]).astype(int)
    end = np.ceil(edges[1:] - 1e-9).astype(int)
    rows = np.repeat(np.arange(new), end - first)
    columns = np.concatenate([np.arange(a, b) for a, b in zip(first, end, strict=True)])
    covered = np.minimum(edges[rows + 1], columns + 1) - np.maximum(edges[rows], columns)
    return csr_array((covered * new / old, (rows, columns)), shape=(new, old))


def _between(old: int, new: int) -> "csr_array":
    """Return the weights of linear interpolation between the centres of an axis's pixels."""
    from scipy.sparse import csr_array

    centres = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
    low = np.floor(centres).astype(int).clip(0, max(old - 2, 0))
    part, rows = centres - low, np.arange(new)
    weights = (np.r_[1 - part, part], (np.r_[rows, rows], np.r_[low, (low + 1).clip(0, old - 1)]))
    return csr_array(weights, shape=(new, old))


def _applied(across: Sequence["csr_array"], images: Array) -> Array:
    """Return the weighted sums along rows and columns, in float64, in the same order anywhere."""
    down, along = across
    return np.stack([(along @ (down @ one.astype(np.float64)).T).T for one in images])


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
    across = [_means(old, new) for old, new in zip(labels.shape[1:], size, strict=True)]
    best = np.zeros((len(labels), *size))
    found = np.zeros(best.shape, np.uint8)
    for value in [*range(classes), *([IGNORED] if (labels == IGNORED).any() else [])]:
        share = _applied(across, labels == value)
        more = (share > best - EVEN) & (share > EVEN)
        best[more], found[more] = share[more], value
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
