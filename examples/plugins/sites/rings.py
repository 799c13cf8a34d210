"""Hospitals whose images lie in NumPy files: one `SITE/PATIENT.npz` with `image` and `mask`."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedcl.data.cases import Case
from fedcl.errors import ConfigError, DataError
from fedcl.learning.scenario import PatientScenario
from fedcl.settings import setting


@dataclass
class Rings(PatientScenario):
    """A folder per hospital, a file per patient.

    Attributes:
        root: folder of the hospitals' folders, in a simulation.
    """

    root: str | None = setting(None, travels=False)

    @property
    def classes(self) -> int:
        """Background and ring."""
        return 2

    def sites(self) -> list[str]:
        """Return the names of the folders."""
        if self.root is None or not Path(self.root).is_dir():
            raise ConfigError("scenario.root: give the folder that holds one folder per hospital")
        return sorted(path.name for path in Path(self.root).iterdir() if path.is_dir())

    def location(self, site: str) -> Path | None:
        """Return a hospital's folder."""
        return Path(self.root) / site if self.root else None

    def cases(self, site: str, path: Path | None) -> list[Case]:
        """Read all patients of a hospital, in the order of their names."""
        if path is None:
            raise DataError(f"site {site}: give scenario.root")
        return [self.patient(file, site) for file in sorted(path.glob("*.npz"))]

    def patient(self, file: Path, site: str) -> Case:
        """Read one patient: image and mask of shape (slices, rows, columns)."""
        with np.load(file, allow_pickle=False) as stored:
            image, mask = stored["image"].astype(np.float32), stored["mask"].astype(np.uint8)
        if image.shape != mask.shape or image.ndim != 3:
            raise DataError(f"site {site}: {file.name}: image {image.shape}, mask {mask.shape}")
        normal = (image - image.mean()) / max(image.std(), 1e-6)
        # One channel is put in front: images are (channels, slices, rows, columns).
        return Case.of(file.stem, torch.from_numpy(normal)[None], torch.from_numpy(mask))
