"""Hospitals as folders of files, by default `<root>/<SITE>/{images,masks}/<name>.<extension>`.

An image and its mask then share their name; the extension may differ. Read are PNG, TIFF, JPEG,
BMP, GIF and PPM pictures (one slice each) and NIfTI, MetaImage and NRRD files (a slice, or a volume
of several).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedcl.data.files import bad, composed, folder_of, hidden
from fedcl.data.layouts import Found, Layout
from fedcl.data.notes import Notes
from fedcl.errors import ConfigError, DataError
from fedcl.settings import closest, setting
from fedcl.tasks.segmentation import Segmentation
from sites.parts.images import ImageScenario, Patient


@dataclass
class SiteFiles:
    """Where the files of one site lie; what is left out is as at other sites, "" is nowhere."""

    image: Any = None
    mask: Any = None
    region: Any = None


@dataclass
class Folder(ImageScenario):
    """Sites read from image and mask files, found by patterns.

    Attributes:
        image: where a site's images lie in its folder: a path with `{case}` for the name of a case,
            `*` for any text, `{channel}` for the number of a channel in a file of its own, `{part}`
            for a folder whose name begins with train, val or test. Without an extension, files of
            all kinds that are read. Of a list of patterns the first that means any file counts.
            With `{site}`, the files of all sites lie in one folder.
        mask: likewise of the masks.
        region: likewise of masks of what counts (a field of view): what is 0 in them counts
            nowhere; null where all does.
        site_files: the same for sites whose files lie otherwise, by their names.
        patient: regular expression searched in a case's name; its first group, or without one the
            whole match, is the patient.
    """

    image: Any = "images/{case}"
    mask: Any = "masks/{case}"
    region: Any = None
    site_files: dict[str, SiteFiles] = setting(factory=dict)
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
        for site in ("", *self.site_files):
            self.layout(site)

    def layout(self, site: str) -> Layout:
        """Return where the files of a site lie.

        Raises:
            ConfigError: a pattern is none.
        """
        if site not in self.site_files:
            return Layout.of(self.image, self.mask, self.region, "scenario")
        own = self.site_files[site]
        return Layout.of(
            own.image or self.image, own.mask or self.mask,
            self.region if own.region is None else own.region,
            f"scenario.site_files.{site}",
        )  # fmt: skip

    @property
    def task(self) -> Segmentation:
        """Segmentation of these images; what lies outside of a `region` counts nowhere."""
        regions = [self.region, *(own.region for own in self.site_files.values())]
        return replace(super().task, ignores=bool(self.ignore) or any(regions))

    @property
    def _wanted(self) -> str:
        """What `root` is to be."""
        image, mask = (one if isinstance(one, str) else one[0] for one in (self.image, self.mask))
        holds = "" if self.layout("").sited else "one folder per site, each with "
        return f"give the folder that holds {holds}{image} and {mask}"

    def sites(self) -> list[str]:
        """Return the folders of `root` that hold images, in alphabetical order.

        Raises:
            ConfigError: `root` is missing, not a folder, or holds no site.
        """
        if self.root is None:
            raise ConfigError(f"scenario.root: {self._wanted}")
        root = folder_of(self.root, "scenario.root")
        if not root.is_dir():
            raise ConfigError(f"scenario.root: {root} is not a folder; {self._wanted}")
        layout = self.layout("")
        if layout.sited:
            found = layout.sites(root)
        else:
            found = sorted(composed(path.name) for path in self._inside() if self._is_site(path))
        if not found:
            raise ConfigError(f"scenario.root: no site in {root}; {self._wanted}")
        self.check_sites(found)
        for site in self.site_files:
            if site not in found:
                raise ConfigError(
                    f"scenario.site_files.{site}: no such site{closest(site, found)}; there are: "
                    f"{', '.join(found)}"
                )
        return found

    def _is_site(self, path: Path) -> bool:
        try:
            return path.is_dir() and self.layout(composed(path.name)).there(path)
        except (OSError, DataError):  # a folder that may not be looked into
            return False

    def left_out(self) -> list[str]:
        """Return what lies in `root` and is no site, and what a split names in vain."""
        layout, lost = self.layout(""), super().left_out()
        others = [path.name for path in self._inside() if not self._is_site(path)]
        if not others or layout.sited:
            return lost
        fixed = layout.image[0].fixed
        what = f"without {fixed}/" if fixed else "without an image"
        return [*lost, f"scenario.root: not taken for sites, {what}: {self.counted(others)}"]

    def _inside(self) -> list[Path]:
        """Return what lies in `root`, hidden things apart."""
        if self.root is None:
            return []
        try:
            inside = sorted(folder_of(self.root, "scenario.root").iterdir())
        except OSError as error:
            reason = f"{self.root} cannot be looked into ({error.strerror}); {self._wanted}"
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
        if self.layout("").sited:
            return root
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
        found = self.layout(site).found(site, path, notes)
        return [
            Patient(
                name, [found[case].files for case in cases], _same_part(site, name, cases, found)
            )
            for name, cases in self._grouped(site, found).items()
        ]

    def _grouped(self, site: str, found: Mapping[str, Found]) -> dict[str, list[str]]:
        """Return the cases of each patient, in order."""
        patients: dict[str, list[str]] = {}
        odd = []
        for case in found:
            match = re.search(self.patient, case)
            if name := match and match[min(1, match.re.groups)]:
                patients.setdefault(name, []).append(case)
            else:
                odd.append(case)
        if odd:
            what = f"scenario.patient {self.patient!r} finds no patient in this name"
            error = bad(
                site, found[odd[0]].files.images[0], f"{what} ({len(odd)} of {len(found)} names)"
            )
            # Where no name fits at all, the expression is at fault rather than the data.
            raise error if patients else ConfigError(str(error))
        return patients


def _check_name(site: str) -> None:
    if site in ("", ".", "..") or any(sign in site for sign in "/\\\0"):
        raise DataError(f"site {site!r}: a site is named like its folder, without a path")


def _same_part(site: str, name: str, cases: Sequence[str], found: Mapping[str, Found]) -> str:
    """Return the part of the data that a patient is in.

    Raises:
        DataError: it is in two.
    """
    parts = {found[case].part for case in cases}
    if len(parts) > 1:
        raise DataError(f"site {site}: patient {name} is in {' and '.join(sorted(parts))}")
    return parts.pop()
