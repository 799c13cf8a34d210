"""The six hospitals of `phantom` in three dimensions, each with voxels of its own.

A volume reaches from above the prostate to below it; labels are its two zones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from fedcl.data.cases import Case
from fedcl.seeding import numpy_rng
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from sites.parts.phantom import PhantomScenario
from sites.phantom import FIELD_OF_VIEW, GLAND, HOSPITALS, Tissue, draw_anatomy, scan

HEIGHT = 1.25
"""Of a volume, over that of the gland."""
THICK = {"A": 3.0, "B": 3.6, "C": 4.5, "D": 5.0, "E": 3.0, "F": 4.0}
"""Millimetres between slices."""
COARSE = {"A": 1.0, "B": 1.0, "C": 1.2, "D": 1.1, "E": 1.0, "F": 1.3}
"""Width of a pixel at the same field of view, relative to the finest."""


@dataclass
class Phantom3D(PhantomScenario):
    """Six hospitals whose volumes differ in thickness of slices and size of pixels.

    Attributes:
        size: rows and columns of the finest volumes; those of others are fewer, and padded.
        strength: how far the hospitals lie apart; as of `phantom`.
    """

    scanners: ClassVar[Mapping[str, Any]] = HOSPITALS

    stages: list[list[str]] = setting(factory=lambda: [["A", "B"], ["C", "D"], ["E", "F"]])
    size: int = setting(48, low=24, high=512)
    patients: int = setting(16, low=3)
    strength: float = setting(0.8, low=0, high=2)

    @property
    def classes(self) -> int:
        """Background, peripheral and transition zone."""
        return 3

    @property
    def task(self) -> Segmentation:
        """Segmentation of volumes, all padded to the size of the finest."""
        slices = max(map(slices_of, self.scanners))
        return Segmentation(1, self.classes, dims=3, size=(slices, self.size, self.size))

    def make(self, site: str, number: int) -> Case:
        """See `PhantomScenario.make`."""
        hospital = HOSPITALS[site].from_reference(HOSPITALS["A"], self.strength)
        rng = numpy_rng("phantom3d", self.seed, site, number)
        slices, size = slices_of(site), round(self.size / COARSE[site])
        tissues, distance = draw_anatomy(hospital, size, slices, rng, HEIGHT)
        image = scan(tissues, distance, hospital, rng)
        labels = np.zeros(tissues.shape, np.uint8)
        labels[tissues == Tissue.PERIPHERAL], labels[tissues == Tissue.TRANSITION] = 1, 2
        pixel = FIELD_OF_VIEW / hospital.zoom / size
        return Case.of(
            f"{site}{number:03d}",
            torch.from_numpy(((image - image.mean()) / image.std())[None].astype(np.float32)),
            torch.from_numpy(labels),
            spacing=(HEIGHT * GLAND / slices, pixel, pixel),
        )


def slices_of(site: str) -> int:
    """Return how many slices a volume of a hospital has."""
    return round(HEIGHT * GLAND / THICK[site])
