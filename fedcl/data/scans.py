"""One image as networks are shown it, with its labels, and the label map that it is scored on.

All arrays are indexed (slice, row, column), images (channel, slice, row, column): a picture is a
volume of one slice.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedcl.data.grid import Shape, written
from fedcl.data.labels import IGNORED
from fedcl.errors import DataError
from fedcl.seeding import numpy_rng

Box = tuple[slice, slice, slice]
"""A part of a volume: ranges of slices, rows and columns within it."""
WHOLE: Box = (slice(None), slice(None), slice(None))
PLACES = 4096
"""How many voxels of a class are kept, at least, to centre patches at."""


class Content(Protocol):
    """The arrays of a scan, wherever they lie."""

    def image(self, box: Box = WHOLE) -> Tensor:
        """Return a part of the image, float32, shape (C, d, h, w)."""

    def labels(self, box: Box = WHOLE) -> Tensor:
        """Return a part of its labels, uint8, shape (d, h, w)."""

    def truth(self) -> Tensor:
        """Return the label map that scores are taken on, uint8."""

    def places(self) -> Tensor:
        """Return some voxels of every class but 0: class, slice, row, column, shape (M, 4)."""


@dataclass(frozen=True)
class InMemory:
    """The arrays of a scan, as tensors; see `Content`."""

    pixels: Tensor
    classes: Tensor
    own: Tensor

    def image(self, box: Box = WHOLE) -> Tensor:
        """See `Content.image`."""
        return self.pixels[:, *box]

    def labels(self, box: Box = WHOLE) -> Tensor:
        """See `Content.labels`."""
        return self.classes[box]

    def truth(self) -> Tensor:
        """See `Content.truth`."""
        return self.own

    @cached_property
    def _places(self) -> Tensor:
        return places_of(self.classes)

    def places(self) -> Tensor:
        """See `Content.places`."""
        return self._places


@dataclass(frozen=True)
class Counts:
    """How many voxels of a label map are of which class.

    Attributes:
        classes: of every class, up to the last that there is.
        ignored: that count nowhere.
    """

    classes: tuple[int, ...]
    ignored: int = 0

    @classmethod
    def of(cls, labels: Tensor) -> "Counts":
        """Count the voxels of a label map, uint8."""
        every = torch.bincount(labels.flatten().long(), minlength=IGNORED + 1).tolist()
        last = max((number for number, n in enumerate(every[:IGNORED]) if n), default=-1)
        return cls(tuple(every[: last + 1]), every[IGNORED])

    def __getitem__(self, number: int) -> int:
        """Return the voxels of a class."""
        return self.classes[number] if number < len(self.classes) else 0

    @property
    def known(self) -> int:
        """The voxels of all classes."""
        return sum(self.classes)


@dataclass(frozen=True)
class Scan:
    """What is known of an image without its arrays, and where they are.

    Attributes:
        shape: of the image as networks are shown it, (C, D, H, W).
        own: shape of the label map as it came, on which scores are taken.
        spacing: distance between its voxels (slice, row, column), in mm or, where the files do
            not say, in pixels.
        plane: of its slices, for a person who checks it.
        counts: its voxels of every class, up to the last that it has, and those `IGNORED`.
        kept: the same of the labels that networks are shown.
        lowest: the image's least value, channel by channel, which it is padded with.
        digest: SHA-256 of all arrays and of the spacing, which scores depend on.
        content: the arrays.
    """

    shape: tuple[int, int, int, int]
    own: Shape
    spacing: tuple[float, float, float]
    plane: str
    counts: Counts
    kept: Counts
    lowest: tuple[float, ...]
    digest: str
    content: Content

    @classmethod
    def of(
        cls,
        image: Tensor,
        labels: Tensor,
        spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
        own: Tensor | None = None,
        plane: str = "",
        lowest: Sequence[float] | None = None,
    ) -> "Scan":
        """Return a scan whose arrays are in memory.

        Args:
            image: float32, shape (C, D, H, W), intensities normalised.
            labels: uint8, shape (D, H, W), classes from 0 (background) on, or `IGNORED`.
            spacing: of `own`.
            own: the label map as it came; None, and that is `labels`.
            plane: see the class.
            lowest: of the whole image, of which this is a part; None, and it is the whole.

        Raises:
            DataError: an array is of another kind or shape, or holds what is no number.
        """
        own = labels if own is None else own
        problem = _problem(image, labels, own)
        if problem is not None:
            raise DataError(problem)
        sha = hashlib.sha256(written(spacing).encode())
        for tensor in (image, labels, own):
            sha.update(str(tuple(tensor.shape)).encode())
            sha.update(np.ascontiguousarray(tensor.numpy()).data)
        channels, slices, rows, columns = image.shape
        return cls(
            (channels, slices, rows, columns),
            _three(own.shape),
            spacing,
            plane,
            Counts.of(own),
            Counts.of(labels),
            tuple(image.flatten(1).amin(dim=1).tolist() if lowest is None else lowest),
            sha.hexdigest(),
            InMemory(image, labels, own),
        )


def _problem(image: Any, labels: Any, own: Any) -> str | None:
    """Return what is wrong with the arrays of a scan, or None."""
    for what, array, dtype, axes in (
        ("image", image, torch.float32, "(channels, slices, rows, columns)"),
        ("label map", labels, torch.uint8, "(slices, rows, columns)"),
        ("own label map", own, torch.uint8, "(slices, rows, columns)"),
    ):
        if not isinstance(array, Tensor):
            return f"the {what} must be a torch tensor, it is {type(array).__name__}"
        if array.dtype != dtype:
            return f"the {what} must be {_word(dtype)}, it is {_word(array.dtype)}"
        if array.ndim != axes.count(",") + 1 or not array.numel():
            return f"the {what} must be of shape {axes}, it is {tuple(array.shape)}"
    if image.shape[1:] != labels.shape:
        return (
            f"the label map is of shape {tuple(labels.shape)}, the image of {tuple(image.shape)}: "
            "all but the channels must be equal"
        )
    if not image.isfinite().all():
        return "the image has values that are not finite"
    return None


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def places_of(labels: Tensor) -> Tensor:
    """Return voxels of every class; see `Content.places`.

    Of more than `PLACES` so many are drawn, and one of every slice that would have none.
    """
    found = [torch.zeros(0, 4, dtype=torch.int32)]
    for number in sorted(set(labels.unique().tolist()) - {0, IGNORED}):
        at = (labels == number).nonzero()
        if len(at) > PLACES:
            drawn = numpy_rng("places", number).choice(len(at), PLACES, replace=False)
            _, firsts = np.unique(at[:, 0].numpy(), return_index=True)
            bare = ~np.isin(at[firsts, 0].numpy(), at[drawn, 0].numpy())
            at = at[np.sort(np.r_[drawn, firsts[bare]])]
        at = at.int()
        found.append(torch.cat([torch.full((len(at), 1), number, dtype=torch.int32), at], dim=1))
    return torch.cat(found)


def _three(shape: Sequence[int]) -> Shape:
    slices, rows, columns = shape
    return slices, rows, columns
