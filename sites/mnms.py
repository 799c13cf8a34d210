"""M&Ms: cardiac cines of several vendors and centres, ED and ES marked.

`{Training/Labeled,Training/Unlabeled,Validation,Testing}/CODE/CODE_sa.nii.gz` with
`CODE_sa_gt.nii.gz`, both 4-D, and a CSV of all patients (Campello et al., TMI 2021).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.files import bad
from fedcl.data.notes import Notes
from fedcl.data.patterns import Pattern, Tree
from fedcl.data.reading import Files
from fedcl.errors import DataError
from fedcl.settings import setting
from sites.parts.cohorts import CohortScenario

PARTS = {"Training/Labeled": "train", "Validation": "val", "Testing": "test"}
CODE = "External code"


@dataclass
class MnMs(CohortScenario):
    """Patients of M&Ms, their marked frames; sites are vendors or centres, or `cohorts`.

    Attributes:
        by: the column of the CSV that tells the site: "Vendor" (A to D) or "Centre" (1 to 5).
        labels: of background, left ventricle, myocardium and right ventricle.
        official: whether the folders say who is trained on, validated and tested.
    """

    by: str = setting("Vendor", choices=("Vendor", "VendorName", "Centre"))
    labels: list[Any] = setting(factory=lambda: [0, 1, 2, 3])
    official: bool = False

    def found(self, site: str, path: Path, notes: Notes) -> dict[str, list[Files]]:
        """Return both marked frames of every patient; see `CohortScenario.found`.

        Raises:
            DataError: the CSV is missing or damaged, or a patient of it has no files.
        """
        rows, tree = self._rows(path), Tree(site, path, 3)
        found: dict[str, list[Files]] = {}
        for place in PARTS:
            for known, file in tree.match(Pattern(f"{place}/{{case}}/*_sa.nii.gz", "M&Ms")):
                code = known["case"]
                mask = file.with_name(f"{code}_sa_gt.nii.gz")
                if code not in rows:
                    notes.add("left out, since the CSV does not name them", code)
                    continue
                if not mask.is_file():
                    raise DataError(f"site {site}: {code}/{mask.name} is missing")
                if code in found:
                    other = found[code][0].mask.parent
                    raise bad(site, file, f"{other} holds this patient too; keep one")
                frames = [int(rows[code][mark]) for mark in ("ED", "ES")]
                found[code] = [Files((file,), mask, frame=frame) for frame in frames]
        unlabelled = path / "Training" / "Unlabeled"
        if unlabelled.is_dir():
            notes.add("Training/Unlabeled: without labels, not read")
        if not found:
            raise DataError(f"site {site}: {path} holds no Training/Labeled/CODE/CODE_sa.nii.gz")
        return dict(sorted(found.items()))

    def grouped(self, path: Path) -> dict[str, str]:
        """Return the vendor or centre of every labelled patient, as the CSV tells it.

        Raises:
            DataError: see `found`.
        """
        rows = self._rows(path)
        return {code: rows[code][self.by] for code in self.found("of M&Ms", path, Notes())}

    def part(self, files: Sequence[Files]) -> str:
        """Return what the folder is for, where that is asked for."""
        place = files[0].mask.parent.parent
        named = {name.rpartition("/")[2]: part for name, part in PARTS.items()}
        return named[place.name] if self.official else ""

    def _rows(self, path: Path) -> dict[str, dict[str, str]]:
        """Return the CSV's rows by their codes.

        Raises:
            DataError: there is none, or it says nothing of the kind.
        """
        files = sorted(path.glob("*.csv"))
        if len(files) != 1:
            raise DataError(f"scenario.root: {path} holds {len(files)} CSV files, one is needed")
        try:
            with files[0].open(newline="", encoding="utf-8-sig") as stream:
                rows = list(csv.DictReader(stream, strict=True))
        except (OSError, csv.Error, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise DataError(f"scenario.root: {files[0]}: {reason}") from None
        for name in (CODE, self.by, "ED", "ES"):
            if not rows or name not in rows[0]:
                raise DataError(f"scenario.root: {files[0]} has no column {name!r}")
        known: set[str] = set()
        for number, row in enumerate(rows, start=2):
            if row[CODE] in known:
                raise DataError(f"scenario.root: {files[0]}, line {number}: {row[CODE]} once more")
            known.add(row[CODE])
            if not all(str(row[mark]).isdecimal() for mark in ("ED", "ES")):
                raise DataError(f"scenario.root: {files[0]}, line {number}: ED or ES is no number")
        return {row[CODE]: row for row in rows}
