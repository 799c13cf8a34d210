"""What every scenario offers: named sites, each with patients split into three parts."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fedcl.errors import DataError
from fedcl.seeding import numpy_rng
from fedcl.settings import setting


@dataclass(frozen=True)
class Case:
    """One patient: a stack of 2-D slices with their label maps.

    Attributes:
        name: patient id, unique within the site.
        images: float32, shape (D, C, H, W), intensities normalised.
        labels: uint8, shape (D, H, W), values 0 (background) .. classes - 1.
        spacing: distance between voxels (slice, row, column), in mm or, where the files
            do not say, in pixels.
    """

    name: str
    images: torch.Tensor
    labels: torch.Tensor
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Slices:
    """Slices of some cases, stacked and on one device.

    Attributes:
        images: float32, shape (N, C, H, W).
        labels: int64, shape (N, 1, H, W).
    """

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, cases: Sequence[Case], device: torch.device) -> "Slices":
        """Stack the slices of `cases` in order."""
        images = torch.cat([case.images for case in cases])
        labels = torch.cat([case.labels for case in cases]).unsqueeze(1).long()
        return cls(images.to(device), labels.to(device))

    @classmethod
    def joined(cls, parts: Sequence["Slices"]) -> "Slices":
        """Join `parts` in order."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([p.images for p in parts]), torch.cat([p.labels for p in parts]))

    def __len__(self) -> int:
        """Return the number of slices."""
        return len(self.images)

    def __getitem__(self, index: torch.Tensor) -> "Slices":
        """Return the slices of these indices."""
        return Slices(self.images[index], self.labels[index])


@dataclass(frozen=True)
class SiteData:
    """The cases of one site, split by patient."""

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def digest(self) -> str:
        """Return the SHA-256 of every name, image and label, split by split."""
        sha = hashlib.sha256()
        for split in (self.train, self.val, self.test):
            for case in split:
                sha.update(case.name.encode())
                sha.update(np.ascontiguousarray(case.images.numpy()).data)
                sha.update(np.ascontiguousarray(case.labels.numpy()).data)
        return sha.hexdigest()


@dataclass
class Scenario(ABC):
    """A family of hospitals; a data layout is one subclass whose fields are its settings.

    Attributes:
        stages: the sites that arrive in each stage, in order of arrival.
        val, test: share of a site's patients kept for validation and for testing.
    """

    channels: ClassVar[int] = 1

    stages: list[list[str]] = setting(factory=list)
    val: float = setting(0.15, above=0, high=0.9)
    test: float = setting(0.25, above=0, high=0.9)

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of label values, background included."""

    @abstractmethod
    def sites(self) -> list[str]:
        """Return the names of the sites there are.

        Raises:
            DataError, ConfigError: the scenario cannot be used as configured.
        """

    @abstractmethod
    def cases(self, site: str, path: Path | None) -> list[Case]:
        """Read or make all patients of `site`, in a fixed order.

        Args:
            site: name of the site.
            path: the site's own folder, as its node configuration gives it; None for a
                scenario that needs no files.

        Raises:
            DataError: the data cannot be used; names the site and the file.
        """

    def arrivals(self) -> list[list[str]]:
        """Return the default order of arrival: `stages`, or else one site per stage."""
        return self.stages or [[site] for site in self.sites()]

    def location(self, site: str) -> Path | None:
        """Return where `site` lies in a simulation; None where no files are needed."""
        return None

    def load(self, site: str, path: Path | None, seed: int) -> SiteData:
        """Read `site` and split its patients by (seed, site).

        Raises:
            DataError: as `cases`, or too few patients for three non-empty parts.
        """
        return split(self.cases(site, path), site, self.val, self.test, seed)


def split(cases: Sequence[Case], site: str, val: float, test: float, seed: int) -> SiteData:
    """Split patients at random into train, validation and test.

    Each part keeps the order of `cases` and gets at least one patient; `val` and `test`
    are shares of all patients, rounded.

    Raises:
        DataError: no patient would be left for training.
    """
    total = len(cases)
    n_val, n_test = max(1, round(val * total)), max(1, round(test * total))
    if total - n_val - n_test < 1:
        raise DataError(
            f"site {site}: {total} patients are too few to split into train, val and test "
            f"(val={val}, test={test}); at least 3 are needed"
        )
    order = numpy_rng("split", seed, site).permutation(total)
    parts = (order[n_val + n_test :], order[:n_val], order[n_val : n_val + n_test])
    train, validation, testing = (tuple(cases[i] for i in sorted(part)) for part in parts)
    return SiteData(train, validation, testing)
