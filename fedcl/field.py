"""Fitting neural fields: networks from coordinates to the values found there."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from monai.metrics import SSIMMetric
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.models.base import FieldModel
from fedcl.scores import dice
from fedcl.space import Part, Room, Space
from fedcl.task import Task
from sites.base import Samples

WINDOW = 11  # pixels, of SSIM


@dataclass(frozen=True)
class Frame:
    """One frame of a cine volume, or the part of it that a site holds.

    Attributes:
        name: unique within the site.
        values: of the site's outputs, float32 in [0, 1], shape (outputs, D, H, W).
        positions: in the space, int64, shape (D, H, W).
        spacing: distance between voxels (slice, row, column), in mm or pixels.
    """

    name: str
    values: Tensor
    positions: Tensor
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return values and positions."""
        return self.values, self.positions


@dataclass(frozen=True)
class Field(Task):
    """Samples are points: inputs are coordinates (N, A), targets values (N, outputs).

    A target that the site does not know is NaN. The loss is the mean square over those known.

    Attributes:
        space: the planned extent.
        parts: what each site holds of it.
        kinds: of each output "signal" (scored by PSNR in dB and SSIM) or "mask" (by Dice).
        shared: whether all sites hold parts of one volume; otherwise each has its own, and
            what a model learns of single volumes (tables, latents) stays at the site.
    """

    words: ClassVar[str] = "a field of coordinates"
    models: ClassVar[type] = FieldModel
    term: ClassVar[str] = "fit"
    scores: ClassVar[tuple[str, ...]] = ("psnr", "ssim", "dice")
    foresight: ClassVar[bool] = False
    chunk: ClassVar[int] = 2**16

    space: Space
    parts: Mapping[str, Part]
    kinds: tuple[str, ...]
    shared: bool = True

    def build(self, model: FieldModel, sites: Sequence[str]) -> nn.Module:
        """Make a network with room for the coordinates and outputs of `sites`."""
        return model.build(self.room(sites))

    def room(self, sites: Sequence[str]) -> Room:
        """Return what a network must have room for once `sites` have arrived."""
        return Room(self.space, tuple(self.parts[site] for site in sites))

    def samples(self, cases: Sequence[Frame], device: torch.device) -> Samples:
        """Return every point of the frames, in order."""
        coordinates, values = [], []
        for case in cases:
            known = case.outputs
            points = case.positions.flatten()
            filled = torch.full((len(points), len(self.kinds)), math.nan)
            filled[:, list(known)] = case.values.flatten(1).T
            coordinates.append(self.space.coordinates(points))
            values.append(filled)
        return Samples(torch.cat(coordinates).to(device), torch.cat(values).to(device))
