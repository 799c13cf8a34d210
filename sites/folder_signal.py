"""A slice of a folder's patient: first its image is learned as a field, then its mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.folder import Folder
from sites.parts.field import FieldScenario, Volume


@dataclass
class FolderSignal(FieldScenario):
    """One slice out of the layout of `folder`; all sites share it.

    Attributes:
        root, labels: as of `folder`; every label but the first counts as mask.
        pattern: its `patient`, which part of a name is the patient.
        hospital: the folder in `root`; null for the first.
        patient: null for the first.
        only: the slice, counted from 0; null for the one with the largest mask.
    """

    root: str | None = setting(None, travels=False)
    labels: list[Any] = setting(factory=lambda: [0, 255])
    pattern: str = setting("^(.+?)-IM-")
    hospital: str | None = None
    patient: str | None = None
    only: int | None = setting(None, low=0)
    masks: list[str] = setting(factory=lambda: ["organ"])

    def __post_init__(self) -> None:
        """Check that the one mask has one name."""
        if len(self.masks) != 1:
            raise ConfigError(f"scenario.masks: give one name, got {self.masks}")
        super().__post_init__()

    @property
    def source(self) -> Folder:
        """The folder's own scenario."""
        return Folder(
            root=self.root, patient=self.pattern, resize=self.size, labels=self.labels,
            normalise="minmax",
        )  # fmt: skip

    def location(self, site: str) -> Path | None:
        """Return the hospital's folder; None where no root is set."""
        if self.root is None:
            return None
        return self.source.location(self.hospital or self.source.sites()[0])

    def volume(self, site: str, path: Path | None, seed: int) -> Volume:
        """Read the slice; see `FieldScenario.volume`."""
        if path is not None and not path.is_dir():
            there = ", ".join(self.source.sites()) if self.root else "none"
            raise DataError(f"site {site}: {path} is no folder; scenario.hospital may be {there}")
        read = self.source.cases(site, path)
        cases = {case.name: case for case in read}
        name = self.patient or next(iter(cases))
        if name not in cases:
            raise DataError(
                f"site {site}: no patient {name!r}; there are {', '.join(cases)}; change "
                "scenario.patient"
            )
        case = cases[name]
        chosen = self.only
        if chosen is None:
            chosen = int((case.labels > 0).flatten(1).sum(dim=1).argmax())
        if chosen >= len(case.images):
            raise DataError(
                f"site {site}: patient {name} has {len(case.images)} slices, scenario.only asks "
                f"for number {chosen}, counted from 0"
            )
        signal = case.images[chosen, 0].numpy()[None, None]
        mask = (case.labels[chosen] > 0).numpy().astype(np.float32)[None, None]
        first = case.scans[0]
        along, down, across = first.spacing
        rows, columns = (old / self.size for old in first.own[1:])
        spacing = (along, down * rows, across * columns)
        return Volume(signal, {self.masks[0]: mask}, spacing, notes=read.notes)
