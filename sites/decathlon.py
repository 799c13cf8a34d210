"""Volumes in the layout of the Medical Segmentation Decathlon, as 2-D slices.

`dataset.json` names the files, `imagesTr/` and `labelsTr/` hold them (Antonelli et al., Nature
Communications 2022).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt

from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.base import Case, PatientScenario
from sites.base_files import Array, bad, natural, read_pair


@dataclass
class Cohort:
    """The cases of one site.

    Attributes:
        share: of all cases in the order of their names: every site's share follows on that of
            the site before.
        cases: or their names (the file's, without extension); of neither, all there are.
    """

    share: float | None = setting(None, above=0, high=1)
    cases: list[str] = setting(factory=list)


@dataclass
class Decathlon(PatientScenario):
    """One task of the Decathlon, its cases shared out among sites.

    Attributes:
        root: the task's folder, for a simulation; a deployed site brings its own.
        cohorts: which cases each site holds, by its name.
        size: height and width of every slice after resizing.
        labels: label values in the order of the classes they become.
        level, width: of the window, in HU: what lies in it becomes -1 to 1; without a width,
            each slice gets mean 0 and standard deviation 1 (images other than CT).
        margin: slices that are kept above and below those with a label; null for all.
    """

    root: str | None = setting(None, travels=False)
    cohorts: dict[str, Cohort] = setting(factory=dict)
    size: int = setting(64, low=8, high=2048)
    labels: list[int] = setting(factory=lambda: [0, 1])
    level: float = 60.0
    width: float | None = setting(400.0, above=0)
    margin: int | None = setting(None, low=0)

    def __post_init__(self) -> None:
        """Check labels and shares."""
        if not 2 <= len(self.labels) <= 256 or len(set(self.labels)) < len(self.labels):
            raise ConfigError(
                f"scenario.labels: give 2 to 256 label values, all different, got {self.labels}"
            )
        for site, cohort in self.cohorts.items():
            if cohort.share is not None and cohort.cases:
                raise ConfigError(f"scenario.cohorts.{site}: give share or cases, not both")
        total = sum(cohort.share or 0.0 for cohort in self.cohorts.values())
        if total > 1 + 1e-9:
            raise ConfigError(f"scenario.cohorts: the shares add up to {total:g}, more than 1")

    @property
    def classes(self) -> int:
        """Number of label values, background included."""
        return len(self.labels)

    def sites(self) -> list[str]:
        """Return the sites of `cohorts`, in order.

        Raises:
            ConfigError: there are none.
        """
        if not self.cohorts:
            raise ConfigError("scenario.cohorts: empty; say which cases each site holds")
        return list(self.cohorts)

    def location(self, site: str) -> Path | None:
        """Return the task's folder, the same for all; None where no root is set."""
        return None if self.root is None else Path(self.root).expanduser()

    def cases(self, site: str, path: Path | None) -> list[Case]:
        """Read the volumes of `site`, in the order of their names; arguments as for `load`.

        Raises:
            DataError: files missing, unreadable or at odds; names the site and the file.
        """
        if path is None:
            raise DataError(f"site {site}: no folder of its own is given and scenario.root unset")
        files = _files(site, Path(path))
        return [self._case(site, name, *files[name]) for name in self._chosen(site, list(files))]

    def _chosen(self, site: str, names: list[str]) -> list[str]:
        """Return which of the cases belong to `site`."""
        cohort = self.cohorts.get(site)
        if cohort is None:
            raise DataError(f"site {site}: scenario.cohorts does not name it")
        if cohort.cases:
            missing = [name for name in cohort.cases if name not in names]
            if missing:
                raise DataError(
                    f"site {site}: dataset.json names no {', '.join(missing)}; change "
                    f"scenario.cohorts.{site}.cases"
                )
            return cohort.cases
        if cohort.share is None:
            return names
        before = 0.0
        for other, one in self.cohorts.items():
            if other == site:
                break
            before += one.share or 0.0
        first, end = (round(share * len(names)) for share in (before, before + cohort.share))
        return names[first:end]

    def _case(self, site: str, name: str, image_file: Path, label_file: Path) -> Case:
        """Read one volume and cut it into slices."""
        image, labels, spacing = read_pair(site, image_file, label_file, self.labels, self.size)
        if self.margin is not None:
            kept = _near(labels != self.labels[0], self.margin)
            if not kept.any():
                raise bad(site, label_file, "no label in it; scenario.margin=null keeps all slices")
            image, labels = image[kept], labels[kept]
        spatial = (self.size, self.size)
        prepare: list[mt.Transform] = [mt.Resize(spatial, mode="bilinear")]
        if self.width is None:
            prepare.append(mt.NormalizeIntensity(channel_wise=True))
        encode = mt.Compose(
            [
                mt.MapLabelValue(self.labels, range(self.classes), dtype=np.uint8),
                mt.Resize(spatial, mode="nearest-exact"),
            ]
        )
        return Case(
            name,
            mt.Compose(prepare)(self._windowed(image)).as_tensor()[:, None],
            encode(labels).as_tensor().to(torch.uint8),
            spacing,
        )

    def _windowed(self, image: Array) -> Array:
        """Return what the window shows, -1 to 1, or all counted from each slice's minimum."""
        if self.width is None:
            return image - image.min((1, 2), keepdims=True)
        return ((image - self.level) / (self.width / 2)).clip(-1, 1)


def _near(marked: Array, margin: int) -> Array:
    """Return which slices lie within `margin` of one with a label, shape (D,)."""
    with_label = np.flatnonzero(marked.any(axis=(1, 2)))
    apart = np.abs(np.arange(len(marked))[:, None] - with_label)
    near: Array = (apart <= margin).any(axis=1)
    return near


def _files(site: str, root: Path) -> dict[str, tuple[Path, Path]]:
    """Return image and label file of every training case, by its name.

    Raises:
        DataError: `dataset.json` is missing or damaged, or names files that are missing or lie
            outside of the folder.
    """
    index = root / "dataset.json"
    try:
        listed = json.loads(index.read_text())["training"]
        pairs = [(root / one["image"], root / one["label"]) for one in listed]
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"site {site}: {index} does not list training cases ({reason})") from None
    files: dict[str, tuple[Path, Path]] = {}
    for pair in pairs:
        for file in pair:
            if not file.resolve().is_relative_to(root.resolve()):
                raise DataError(f"site {site}: {index} names {file}, which lies outside of {root}")
        missing = [file for file in pair if not file.is_file()]
        if missing:
            raise DataError(f"site {site}: {index} names {missing[0]}, which is not there")
        name = pair[0].name.partition(".")[0]
        if name in files:
            raise DataError(f"site {site}: {index} names {name} twice")
        files[name] = pair
    if not files:
        raise DataError(f"site {site}: {index} lists no training case")
    return {name: files[name] for name in sorted(files, key=natural)}
