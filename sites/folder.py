"""Hospitals as folders of files: `<root>/<SITE>/{images,masks}/<name>.<extension>`.

An image and its mask share their name; the extension may differ. Read are PNG, TIFF, JPEG
and PPM pictures (one slice each) and NIfTI files (a slice, or a volume of several).
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai import transforms as mt

from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.base import Case, PatientScenario
from sites.base_files import EXTENSIONS, bad, natural, read_pair

LAYOUT = "give the folder that holds one folder per site, each with images/ and masks/"


@dataclass
class Folder(PatientScenario):
    """Sites read from image and mask files, resized and normalised slice by slice.

    Attributes:
        root: folder of all sites, for a simulation; a deployed site brings its own path.
        patient: regular expression searched in a file name without its extension; its
            first group, or without one the whole match, is the patient.
        size: height and width of every slice after resizing.
        labels: mask values in the order of the class indices they become.
        normalise: `zscore` (mean 0, standard deviation 1) or `minmax` (0 to 1), per slice.
    """

    root: str | None = setting(None, travels=False)
    patient: str = setting("^(.+?)-IM-")
    size: int = setting(64, low=8, high=2048)
    labels: list[int] = setting(factory=lambda: [0, 255])
    normalise: str = setting("zscore", choices=("zscore", "minmax"))

    def __post_init__(self) -> None:
        """Raise a ConfigError for a bad regular expression or labels that name no classes."""
        try:
            re.compile(self.patient)
        except re.error as error:
            reason = f"{self.patient!r} is not a regular expression: {error}"
            raise ConfigError(f"scenario.patient: {reason}") from error
        if not 2 <= len(self.labels) <= 256 or len(set(self.labels)) < len(self.labels):
            raise ConfigError(
                f"scenario.labels: give 2 to 256 mask values, all different, got {self.labels}"
            )

    @property
    def classes(self) -> int:
        """Number of label values, background included."""
        return len(self.labels)

    def sites(self) -> list[str]:
        """Return the folders of `root` that hold an `images` folder, in alphabetical order.

        Raises:
            ConfigError: `root` is missing, not a folder, or holds no site.
        """
        if self.root is None:
            raise ConfigError(f"scenario.root: {LAYOUT}")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise ConfigError(f"scenario.root: {root} is not a folder; {LAYOUT}")
        found = sorted(path.parent.name for path in root.glob("[!.]*/images") if path.is_dir())
        if not found:
            raise ConfigError(f"scenario.root: no site in {root}; {LAYOUT}")
        return found

    def location(self, site: str) -> Path | None:
        """Return the folder of `site` in `root`; None where no root is set.

        Raises:
            DataError: `site` is not a plain folder name.
        """
        _check_name(site)
        return None if self.root is None else Path(self.root).expanduser() / site

    def cases(self, site: str, path: Path | None) -> list[Case]:
        """Read all patients, and the slices of each, in the order of their file names.

        Args:
            site: name of the site.
            path: folder that holds `images` and `masks`.

        Returns:
            One case per patient, D slices of (size, size). Spacing is 1 for pictures; for
            NIfTI that of the patient's first file in mm, stretched by the resizing.

        Raises:
            DataError: files missing, unreadable or at odds; names the site and the file.
            ConfigError: `patient` fits no file name at all.
        """
        _check_name(site)
        if path is None:
            raise DataError(f"site {site}: no folder of its own is given and scenario.root unset")
        images, masks = (_files(site, Path(path) / kind) for kind in ("images", "masks"))
        if lone := sorted(images.keys() ^ masks.keys()):
            file = (images | masks)[lone[0]]
            other = "masks" if lone[0] in images else "images"
            raise bad(site, file, f"no file of this name in {other} ({len(lone)} such in all)")

        spatial = (self.size, self.size)
        normalise = mt.NormalizeIntensity if self.normalise == "zscore" else mt.ScaleIntensity
        prepare = mt.Compose([mt.Resize(spatial, mode="bilinear"), normalise(channel_wise=True)])
        # "nearest-exact" takes pixel centres as "bilinear" does; "nearest" would shift the mask.
        encode = mt.Compose(
            [
                mt.MapLabelValue(self.labels, range(self.classes), dtype=np.uint8),
                mt.Resize(spatial, mode="nearest-exact"),
            ]
        )
        cases = []
        for name, stems in self._patients(site, images).items():
            pairs = [
                read_pair(site, images[stem], masks[stem], self.labels, self.size) for stem in stems
            ]
            # Counted from its minimum, a constant slice is exactly 0 and stays so when resized;
            # otherwise rounding would leave a pattern that normalising blows up.
            slices = torch.cat(
                [
                    prepare(image - image.min((1, 2), keepdims=True)).as_tensor()
                    for image, _, _ in pairs
                ]
            )
            labels = torch.cat([encode(mask).as_tensor() for _, mask, _ in pairs])
            cases.append(Case(name, slices[:, None], labels.to(torch.uint8), pairs[0][2]))
        return cases

    def _patients(self, site: str, images: dict[str, Path]) -> dict[str, list[str]]:
        """Return the file names of each patient, in order."""
        patients: dict[str, list[str]] = {}
        odd = []
        for stem in sorted(images, key=natural):
            match = re.search(self.patient, stem)
            if name := match and match[min(1, match.re.groups)]:
                patients.setdefault(name, []).append(stem)
            else:
                odd.append(stem)
        if odd:
            what = f"scenario.patient {self.patient!r} finds no patient in this name"
            error = bad(site, images[odd[0]], f"{what} ({len(odd)} of {len(images)} names)")
            # Where no name fits at all, the expression is at fault rather than the data.
            raise error if patients else ConfigError(str(error))
        return patients


def _check_name(site: str) -> None:
    if site in ("", ".", "..") or any(sign in site for sign in "/\\\0"):
        raise DataError(f"site {site!r}: a site is named like its folder, without a path")


def _files(site: str, folder: Path) -> dict[str, Path]:
    """Return the readable files of `folder` by their name without extension."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"site {site}: folder {folder}: {error.strerror}") from error
    files: dict[str, Path] = {}
    for path in paths:
        extension = next((e for e in EXTENSIONS if path.name.lower().endswith(e)), None)
        if extension is None or path.name.startswith("."):
            continue
        stem = path.name[: -len(extension)]
        if stem in files:
            raise bad(site, path, f"same name as {files[stem].name}; keep one")
        files[stem] = path
    if not files:
        read = " ".join(EXTENSIONS)
        raise DataError(f"site {site}: folder {folder}: no file to read; read are {read}")
    return files
