"""Volumes in the layout of the Medical Segmentation Decathlon, as 2-D slices.

`dataset.json` names the files, `imagesTr/` and `labelsTr/` hold them (Antonelli et al., Nature
Communications 2022).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt

from fedcl.data.cases import Case, Cases
from fedcl.data.files import bad, composed, folder_of, natural, stem_of, text_of, visible
from fedcl.data.grid import Array
from fedcl.data.notes import Notes
from fedcl.data.reading import Pair
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest, setting
from sites.parts.images import ImageScenario, from_minimum


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
class Decathlon(ImageScenario):
    """One task of the Decathlon, its cases shared out among sites.

    Attributes:
        root: the task's folder, the same for all sites; a deployed site brings its own.
        cohorts: which cases each site holds, by its name.
        level, width: of the window, in HU: what lies in it becomes -1 to 1; without a width,
            each slice gets mean 0 and standard deviation 1 (images other than CT).
        margin: slices that are kept above and below those with a label; null for all.
    """

    cohorts: dict[str, Cohort] = setting(factory=dict)
    level: float = 60.0
    width: float | None = setting(400.0, above=0)
    margin: int | None = setting(None, low=0)

    def __post_init__(self) -> None:
        """Check labels and shares."""
        super().__post_init__()
        for site, cohort in self.cohorts.items():
            if cohort.share is not None and cohort.cases:
                raise ConfigError(f"scenario.cohorts.{site}: give share or cases, not both")
        total = sum(cohort.share or 0.0 for cohort in self.cohorts.values())
        if total > 1 + 1e-9:
            raise ConfigError(f"scenario.cohorts: the shares add up to {total:g}, more than 1")

    def sites(self) -> list[str]:
        """Return the sites of `cohorts`, in order.

        Raises:
            ConfigError: there are none.
        """
        if not self.cohorts:
            raise ConfigError("scenario.cohorts: empty; say which cases each site holds")
        self.check_sites(list(self.cohorts))
        holders: dict[str, str] = {}
        for site, names in self._shared_out().items():
            for name in names:
                other = holders.setdefault(name, site)
                if other != site or names.count(name) > 1:
                    raise ConfigError(
                        f"scenario.cohorts: {other} and {site} both hold {name}, or one of them "
                        "holds it twice: a patient would be trained on and tested"
                    )
        return list(self.cohorts)

    def left_out(self) -> list[str]:
        """Return which cases no site holds."""
        shared = self._shared_out()
        held = {name for names in shared.values() for name in names}
        if not shared:
            return []
        every = list(_files(next(iter(shared)), self._root, Notes()))
        lone = [name for name in every if name not in held]
        if not lone:
            return []
        named = ", ".join(lone[:5]) + ", ..." * (len(lone) > 5)
        return [f"scenario.cohorts: cases that no site holds: {named} ({len(lone)})"]

    @property
    def _root(self) -> Path:
        return folder_of(self.root or "", "scenario.root")

    def _shared_out(self) -> dict[str, list[str]]:
        """Return the cases of every site where all lie in one folder, as in a simulation."""
        if self.root is None:
            return {}
        first = next(iter(self.cohorts))
        names = list(_files(first, self._root, Notes()))
        return {site: self._chosen(site, names) for site in self.cohorts}

    def location(self, site: str) -> Path | None:
        """Return the task's folder, the same for all; None where no root is set."""
        return None if self.root is None else self._root

    def cases(self, site: str, path: Path | None) -> Cases:
        """Read the volumes of `site`, in the order of their names; arguments as for `load`.

        Raises:
            DataError: files missing, unreadable or at odds; names the site and the file.
        """
        if path is None:
            raise DataError(f"site {site}: no folder of its own is given and scenario.root unset")
        notes = Notes()
        files = _files(site, Path(path), notes)
        chosen = self._chosen(site, list(files))
        read = (self._case(site, name, files[name], notes) for name in chosen)
        cases = [case for case in read if case is not None]
        modality = _modality(Path(path))
        if self.width is not None and modality != "CT":
            notes.add(f"dataset.json says {modality}, not CT: a window in HU may not be meant")
        return Cases(cases, self.notes(site, notes, cases))

    def _chosen(self, site: str, names: list[str]) -> list[str]:
        """Return which of the cases belong to `site`."""
        cohort = self.cohorts.get(site)
        if cohort is None:
            raise DataError(f"site {site}: scenario.cohorts does not name it")
        if cohort.cases:
            missing = [name for name in cohort.cases if name not in names]
            if missing:
                near = closest(missing[0], names)
                raise DataError(
                    f"site {site}: dataset.json names no {', '.join(missing)}{near}; change "
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

    def _case(self, site: str, name: str, files: tuple[Path, Path], notes: Notes) -> Case | None:
        """Read one volume and cut it into slices; None where no voxel of it counts."""
        pairs = self.pairs(site, [files], notes)
        if not pairs:
            return None
        (pair,) = pairs
        if self.margin is not None:
            pairs = _near(pair, self.margin)
            if not pairs:
                raise bad(site, files[1], "no label in it; scenario.margin=null keeps all slices")
            left = len(pair.image) - sum(len(part.image) for part in pairs)
            if left:
                notes.add("slices beyond scenario.margin left out, in tests too", f"{name} {left}")
        if self.width is None:
            prepare: Callable[[torch.Tensor], torch.Tensor] = mt.Compose(
                [mt.NormalizeIntensity(channel_wise=True), mt.ToTensor(track_meta=False)]
            )
            return self.case(name, [from_minimum(part) for part in pairs], prepare)
        shown = [replace(part, image=self._windowed(part.image)) for part in pairs]
        if all(part.image.min() == part.image.max() for part in shown):
            raise bad(
                site,
                files[0],
                "the window leaves nothing of it; change scenario.level and width, or give "
                "scenario.width=null for images other than CT",
            )
        return self.case(name, shown, lambda image: image)

    def _windowed(self, image: Array) -> Array:
        """Return what the window shows, -1 to 1."""
        assert self.width is not None
        shown: Array = ((image - self.level) / (self.width / 2)).clip(-1, 1)
        return shown.astype(np.float32)


def _near(pair: Pair, margin: int) -> list[Pair]:
    """Return the slices within `margin` of one with a label, a part for every unbroken run."""
    with_label = np.flatnonzero(pair.labels.any(axis=(1, 2)))
    apart = np.abs(np.arange(len(pair.labels))[:, None] - with_label)
    kept = np.flatnonzero((apart <= margin).any(axis=1))
    runs = np.split(kept, np.flatnonzero(np.diff(kept) > 1) + 1) if len(kept) else []
    return [replace(pair, image=pair.image[run], labels=pair.labels[run]) for run in runs]


def _files(site: str, root: Path, notes: Notes) -> dict[str, tuple[Path, Path]]:
    """Return image and label file of every training case, by its name.

    Raises:
        DataError: `dataset.json` is missing or damaged, or names files that are missing or lie
            outside of the folder.
    """
    index = root / "dataset.json"
    try:
        listed = json.loads(text_of(index))["training"]
        pairs = [(Path(one["image"]), Path(one["label"])) for one in listed]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"site {site}: {index} does not list training cases ({reason})") from None
    files: dict[str, tuple[Path, Path]] = {}
    used: set[Path] = set()
    for image, label in pairs:
        for file in (image, label):
            # A name may not lead out; whoever owns the folder may well link to other places.
            if file.is_absolute() or ".." in file.parts or "\0" in str(file):
                raise DataError(f"site {site}: {index} names {file}, which lies outside of {root}")
            if not (root / file).is_file():
                taken = {name.name for pair in pairs for name in pair}
                inside = _inside(site, (root / file).parent)
                near = closest(file.name, [p.name for p in inside if p.name not in taken])
                raise DataError(
                    f"site {site}: {index} names {root / file}, which is not there{near}"
                )
        name = stem_of(image.name) or composed(image.name)
        if name in files:
            raise DataError(f"site {site}: {index} names {name} twice")
        if label in used or label == image:
            raise DataError(f"site {site}: {index} names {label} for two images, or as an image")
        used.add(label)
        files[name] = root / image, root / label
    if not files:
        raise DataError(f"site {site}: {index} lists no training case")
    known = {file for pair in files.values() for file in pair}
    for folder in sorted({file.parent for pair in files.values() for file in pair}):
        for path in _inside(site, folder):
            if path not in known:
                notes.add(f"{folder.name}/: not listed for training in dataset.json", path.name)
    return {name: files[name] for name in sorted(files, key=natural)}


def _modality(root: Path) -> str:
    """Return what dataset.json says of the first channel; CT where it says nothing."""
    try:
        return str(json.loads(text_of(root / "dataset.json"))["modality"]["0"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return "CT"


def _inside(site: str, folder: Path) -> list[Path]:
    return visible(site, folder) if folder.is_dir() else []
