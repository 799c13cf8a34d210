"""Between an image's own grid and the grid of the network."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.grid import Shape, Spacing

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = np.ndarray[Any, Any]
EVEN = 1e-4
"""Shares of a pixel that differ by less count as equal."""


def in_spacing(there: Shape, own: Spacing, wanted: Sequence[float]) -> Shape:
    """Return the size of a volume whose voxels are brought to another spacing.

    Args:
        there: slices, rows and columns.
        own: distance between its voxels along them, in mm.
        wanted: likewise; of (row, column) alone, and slices stay.
    """
    axes = len(wanted)
    across = zip(there[-axes:], own[-axes:], wanted, strict=True)
    return stretched(there, [max(1, round(n * old / new)) for n, old, new in across])


def stretched(there: Shape, wanted: Sequence[int]) -> Shape:
    """Return the size of a volume stretched to some rows and columns, or to slices as well."""
    slices, rows, columns = (*there[: 3 - len(wanted)], *wanted)
    return slices, rows, columns


def scaled(image: Array, size: Shape) -> Tensor:
    """Return an image in another size.

    Along an axis that gets shorter, every voxel is the mean of what it covers, so that nothing
    small is passed over; along one that gets longer, it is interpolated linearly.

    Args:
        image: float32, shape (C, D, H, W).
        size: slices, rows and columns.

    Returns:
        float32, shape (C, *size).
    """
    if image.shape[1:] == size:
        return torch.from_numpy(image.astype(np.float32))
    across = _weights(image.shape[1:], size, between=True)
    return torch.stack(
        [torch.from_numpy(_applied(across, one).astype(np.float32)) for one in image]
    )


def _weights(before: Sequence[int], after: Sequence[int], between: bool) -> list[Any]:
    """Return the weights along every axis; None where it stays."""
    return [
        None if old == new else _between(old, new) if between and new > old else _means(old, new)
        for old, new in zip(before, after, strict=True)
    ]


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


def _applied(across: Sequence["csr_array | None"], volume: Array) -> Array:
    """Return the weighted sums along slices, rows and columns, in float64, in the same order."""
    through, down, along = across
    found = volume.astype(np.float64)
    if through is not None:
        slices = through @ found.reshape(len(found), -1)
        found = slices.reshape(-1, *volume.shape[1:])
    if down is not None:
        found = np.stack([down @ one for one in found])
    if along is not None:
        found = np.stack([(along @ one.T).T for one in found])
    return found


def reduced(labels: Array, size: Shape) -> Tensor:
    """Return a label map in another size: the class that covers most of a voxel.

    Of classes with even shares the later one is taken, so that a structure stays rather than
    background.

    Args:
        labels: uint8, shape (D, H, W); may hold `IGNORED`.
        size: slices, rows and columns.

    Returns:
        uint8, shape `size`.
    """
    if labels.shape == size:
        return torch.from_numpy(labels.copy())
    across = _weights(labels.shape, size, between=False)
    best = np.zeros(size)
    found = np.zeros(size, np.uint8)
    for value in np.unique(labels).tolist():
        share = _applied(across, labels == value)
        more = (share > best - EVEN) & (share > EVEN)
        best[more], found[more] = share[more], value
    return torch.from_numpy(found)


def restored(answers: Tensor, size: Shape) -> Tensor:
    """Return class probabilities on an image's own grid.

    Args:
        answers: on the network's grid, shape (K, D, H, W).
        size: slices, rows and columns of the own grid; probabilities are brought there linearly
            (in-plane first), those of several voxels of the network joined where it is coarser.

    Returns:
        shape (K, *size).
    """
    slices, rows, columns = size
    if answers.shape[2:] != (rows, columns):
        answers = torch.cat(
            [_resized(one.movedim(1, 0), (rows, columns)).movedim(0, 1) for one in answers[:, None]]
        )
    if answers.shape[1] != slices:
        flat = answers.flatten(2)[:, None]
        answers = _resized(flat, (slices, rows * columns))[:, 0].unflatten(2, (rows, columns))
    return answers


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return images (N, 1, H, W) in another size, one by one to spare memory."""
    done = [
        F.interpolate(one, size, mode="bilinear", align_corners=False, antialias=True)
        for one in images.split(1)
    ]
    return torch.cat(done)
