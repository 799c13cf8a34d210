"""Hospitals as folders of files: `<root>/<SITE>/{images,masks}/<name>.<extension>`.

An image and its mask share their name; the extension may differ. Read are PNG, TIFF, JPEG, BMP,
GIF and PPM pictures (one slice each) and NIfTI, MetaImage and NRRD files (a slice, or a volume of
several).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.files import bad, composed, folder_of, hidden, listed, natural, paired
from fedcl.data.notes import Notes
from fedcl.data.reading import Files
from fedcl.errors import ConfigError, DataError
from fedcl.settings import setting
from sites.parts.images import ImageScenario, Patient

LAYOUT = "give the folder that holds one folder per site, each with images/ and masks/"


@dataclass
class Folder(ImageScenario):
    """Sites read from image and mask files of one name.

    Attributes:
        patient: regular expression searched in a file name without its extension; its
            first group, or without one the whole match, is the patient.
    """

    patient: str = setting("^(.+?)-IM-")
    labels: list[Any] = setting(factory=lambda: [0, 255])

    def __post_init__(self) -> None:
        """Raise a ConfigError for a bad regular expression or labels that name no classes."""
        try:
            re.compile(self.patient)
        except re.error as error:
            reason = f"{self.patient!r} is not a regular expression: {error}"
            raise ConfigError(f"scenario.patient: {reason}") from error
        super().__post_init__()

    def sites(self) -> list[str]:
        """Return the folders of `root` that hold an `images` folder, in alphabetical order.

        Raises:
            ConfigError: `root` is missing, not a folder, or holds no site.
        """
        if self.root is None:
            raise ConfigError(f"scenario.root: {LAYOUT}")
        root = folder_of(self.root, "scenario.root")
        if not root.is_dir():
            raise ConfigError(f"scenario.root: {root} is not a folder; {LAYOUT}")
        found = sorted(composed(path.name) for path in self._inside() if _is_site(path))
        if not found:
            raise ConfigError(f"scenario.root: no site in {root}; {LAYOUT}")
        self.check_sites(found)
        return found

    def left_out(self) -> list[str]:
        """Return what lies in `root` and is no site."""
        others = [path.name for path in self._inside() if not _is_site(path)]
        if not others:
            return []
        named = ", ".join(others[:5]) + ", ..." * (len(others) > 5)
        return [f"scenario.root: not taken for sites, without images/: {named} ({len(others)})"]

    def _inside(self) -> list[Path]:
        """Return what lies in `root`, hidden things apart."""
        if self.root is None:
            return []
        try:
            inside = sorted(folder_of(self.root, "scenario.root").iterdir())
        except OSError as error:
            reason = f"{self.root} cannot be looked into ({error.strerror}); {LAYOUT}"
            raise ConfigError(f"scenario.root: {reason}") from None
        return [path for path in inside if not hidden(path)]

    def location(self, site: str) -> Path | None:
        """Return the folder of `site` in `root`; None where no root is set.

        Raises:
            DataError: `site` is not a plain folder name.
        """
        _check_name(site)
        if self.root is None:
            return None
        root = folder_of(self.root, "scenario.root")
        # The same name may be stored in another of Unicode's forms.
        same = (path for path in self._inside() if composed(path.name) == composed(site))
        return next(same, root / site)

    def patients(self, site: str, path: Path, notes: Notes) -> list[Patient]:
        """Return the files of all patients, in the order of their names.

        Raises:
            DataError: files missing or at odds; names the site and the file.
            ConfigError: `patient` fits no file name at all.
        """
        _check_name(site)
        images, masks = (listed(site, path / kind, notes) for kind in ("images", "masks"))
        files = paired(site, images, masks)
        return [
            Patient(name, [Files((files[stem][0],), files[stem][1]) for stem in stems])
            for name, stems in self._patients(site, images).items()
        ]

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


def _is_site(path: Path) -> bool:
    try:
        return (path / "images").is_dir()
    except OSError:  # a folder that may not be looked into
        return False
