"""A folder per patient, `SITE/PATIENT/{t1,flair,seg}.nii.gz`: two channels and a mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.notes import Notes
from fedcl.data.reading import Files
from fedcl.errors import ConfigError
from sites.parts.images import ImageScenario, Patient


@dataclass
class ByPatient(ImageScenario):
    """Sites whose patients have a folder each, and a file per channel in it."""

    channels: Any = 2

    def sites(self) -> list[str]:
        """Return the names of the sites' folders."""
        if self.root is None or not Path(self.root).is_dir():
            raise ConfigError("scenario.root: give the folder that holds one folder per site")
        return sorted(path.name for path in Path(self.root).iterdir() if path.is_dir())

    def location(self, site: str) -> Path | None:
        """Return a site's folder."""
        return Path(self.root) / site if self.root else None

    def patients(self, site: str, path: Path, notes: Notes) -> list[Patient]:
        """List the files of every patient, in the order of their names."""
        found = []
        for folder in sorted(path.iterdir()):
            if folder.is_dir():
                channels = tuple(folder / f"{name}.nii.gz" for name in ("t1", "flair"))
                found.append(Patient(folder.name, [Files(channels, folder / "seg.nii.gz")]))
            else:
                notes.add("left out, no folder of a patient", folder.name)
        return found
