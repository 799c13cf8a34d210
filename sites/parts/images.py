"""What every layout of image and mask files offers: labels, and slices of one size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedcl.data.cases import Case
from fedcl.data.files import bad
from fedcl.data.grid import SPACING, written
from fedcl.data.labels import IGNORED, Labels
from fedcl.data.notes import Note, Notes
from fedcl.data.reading import Pair, read_pair
from fedcl.data.resampling import reduced, scaled
from fedcl.errors import ConfigError
from fedcl.learning.scenario import PatientScenario
from fedcl.settings import closest, setting
from fedcl.tasks.segmentation import Segmentation

Intensities = Callable[[torch.Tensor], torch.Tensor]


def from_minimum(pair: Pair) -> Pair:
    """Return a pair whose image is counted from the minimum of every slice.

    A constant slice is exactly 0 then and stays so when resized; otherwise rounding would leave
    a pattern that normalising blows up.
    """
    return replace(pair, image=pair.image - pair.image.min((1, 2), keepdims=True))


@dataclass
class ImageScenario(PatientScenario):
    """Sites read from image and mask files, cut into slices of one size.

    Attributes:
        root: folder of the data, for a simulation; a deployed site brings its own path.
        size: height and width of every slice after resizing; scores are taken on the images'
            own grids, to which predictions are brought back.
        labels: of every class, background first, the mask value that means it, or a list of
            several, or a colour such as "#ff0000".
        site_labels: the same for sites that mark the classes by other values, by their names.
        ignore: mask values that count nowhere, neither in training nor in scores.
        same_origin: whether a mask is refused that its header places over a voxel away from its
            image; otherwise it is taken voxel by voxel.
    """

    root: str | None = setting(None, travels=False)
    size: int = setting(64, low=8, high=2048)
    labels: list[Any] = setting(factory=lambda: [0, 1])
    site_labels: dict[str, Any] = setting(factory=dict)
    ignore: list[Any] = setting(factory=list)
    same_origin: bool = True

    def __post_init__(self) -> None:
        """Raise a ConfigError for labels that name no classes."""
        classes = Labels.of(self.labels, self.ignore, "scenario.labels").classes
        for site in self.site_labels:
            key = f"scenario.site_labels.{site}"
            if self.labels_of(site).classes != classes:
                raise ConfigError(f"{key}: {classes} classes are needed, as in scenario.labels")

    def labels_of(self, site: str) -> Labels:
        """Return the labels of a site."""
        if site not in self.site_labels:
            return Labels.of(self.labels, self.ignore, "scenario.labels")
        own = self.site_labels[site]
        key = f"scenario.site_labels.{site}"
        if not isinstance(own, list):
            raise ConfigError(f"{key}: must be a list, as scenario.labels, got {own!r}")
        return Labels.of(own, self.ignore, key)

    @property
    def classes(self) -> int:
        """Number of classes, background included."""
        return len(self.labels)

    @property
    def task(self) -> Segmentation:
        """Segmentation of images of one channel."""
        return Segmentation(1, self.classes, bool(self.ignore))

    def check_sites(self, there: Sequence[str]) -> None:
        """Raise a ConfigError where settings name a site that is not there."""
        for site in self.site_labels:
            if site not in there:
                raise ConfigError(
                    f"scenario.site_labels.{site}: no such site{closest(site, list(there))}; "
                    f"there are: {', '.join(there)}"
                )

    def pairs(self, site: str, files: Sequence[tuple[Path, Path]], notes: Notes) -> list[Pair]:
        """Read the images and masks of one patient, less those of which no pixel counts.

        Raises:
            DataError: a file is unreadable or at odds with another.
        """
        labels = self.labels_of(site)
        found = [read_pair(site, *pair, labels, notes, self.same_origin) for pair in files]
        for (file, _), pair in zip(files, found, strict=True):
            if not np.allclose(pair.spacing, found[0].spacing, rtol=SPACING, atol=0):
                raise bad(
                    site,
                    file,
                    f"voxels (slice, row, column) of {written(pair.spacing)} mm, those of "
                    f"{files[0][0].name} of the same patient are {written(found[0].spacing)}",
                )
        for (file, _), pair in zip(files, found, strict=True):
            if (pair.labels == IGNORED).all():
                notes.add("left out, since all of the mask is ignored", file.name)
        return [pair for pair in found if (pair.labels != IGNORED).any()]

    def case(self, name: str, pairs: Sequence[Pair], intensities: Intensities) -> Case:
        """Return a patient as it is learned from and scored.

        Args:
            name: of the patient.
            pairs: images and labels, in order.
            intensities: what is made of slices, shape (D, size, size), once they are resized.
        """
        size = (self.size, self.size)
        return Case(
            name,
            torch.cat([intensities(scaled(pair.image, size))[:, None] for pair in pairs]),
            torch.cat([reduced(pair.labels, self.classes, size) for pair in pairs]),
            pairs[0].spacing,
            tuple(torch.from_numpy(np.ascontiguousarray(pair.labels)) for pair in pairs),
            " and ".join(sorted({pair.plane for pair in pairs})),
        )

    def notes(self, site: str, notes: Notes, cases: Sequence[Case]) -> tuple[Note, ...]:
        """Return what a user should know of the cases of `site`."""
        absent = self.labels_of(site).absent([one.numpy() for case in cases for one in case.own])
        for value in absent:
            notes.add(f"no mask has the label {value}")
        return notes.all()
