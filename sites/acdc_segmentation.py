"""ACDC for segmentation: `patientNNN/patientNNN_frameFF.nii.gz` with `..._frameFF_gt.nii.gz`.

The two frames that are marked, end-diastole and end-systole, as in the published folders
(Bernard et al., TMI 2018). For fields of a whole cine see `acdc`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedcl.data.files import bad, text_of
from fedcl.data.notes import Notes
from fedcl.data.patterns import Pattern, Tree
from fedcl.data.reading import Files
from fedcl.errors import DataError
from fedcl.settings import setting
from sites.parts.cohorts import CohortScenario

IMAGES = (
    Pattern("{case}/*_frame{channel}", "frames"),
    Pattern("training/{case}/*_frame{channel}", "frames"),
    Pattern("testing/{case}/*_frame{channel}", "frames"),
)


@dataclass
class ACDCSegmentation(CohortScenario):
    """Patients of ACDC; sites are their groups (NOR, DCM, HCM, MINF, RV), or `cohorts`.

    Attributes:
        root: a folder of patients, or the one that holds `training` and `testing`.
        labels: of background, right ventricle, myocardium and left ventricle.
        official: whether patients in `testing` are those tested.
    """

    labels: list[Any] = setting(factory=lambda: [0, 1, 2, 3])
    official: bool = False

    def found(self, site: str, path: Path, notes: Notes) -> dict[str, list[Files]]:
        """Return the marked frames of every patient; see `CohortScenario.found`.

        Raises:
            DataError: there is none, or one has no mask.
        """
        tree = Tree(site, path, 2)
        found: dict[str, list[Files]] = {}
        for pattern in IMAGES:
            for known, file in tree.match(pattern):
                stem, _, end = file.name.partition(".")
                mask = file.with_name(f"{stem}_gt.{end}")
                if not mask.is_file():
                    raise DataError(f"site {site}: {file.parent.name}/{mask.name} is missing")
                own = found.setdefault(known["case"], [])
                if own and own[0].mask.parent != mask.parent:
                    raise bad(site, file, f"{own[0].mask.parent} holds this patient too; keep one")
                if any(one.mask.name.partition(".")[0] == f"{stem}_gt" for one in own):
                    raise bad(site, file, "there twice, with another extension; keep one")
                own.append(Files((file,), mask))
        if not found:
            raise DataError(f"site {site}: {path} holds no patientNNN/*_frameFF.nii.gz")
        return dict(sorted(found.items()))

    def grouped(self, path: Path) -> dict[str, str]:
        """Return the group of every patient, as its Info.cfg says.

        Raises:
            DataError: one has no Info.cfg, or it says nothing of the kind.
        """
        if self.root is None and not path.is_dir():
            return {}
        groups = {}
        for case, files in self.found("of ACDC", path, Notes()).items():
            info = files[0].mask.parent / "Info.cfg"
            try:
                lines = (line.partition(":") for line in text_of(info).splitlines())
                groups[case] = {key.strip(): one.strip() for key, _, one in lines}["Group"]
            except (OSError, KeyError) as error:
                reason = getattr(error, "strerror", None) or "no line 'Group: ...'"
                raise DataError(f"site of ACDC: {info}: {reason}") from None
        return groups

    def part(self, files: Sequence[Files]) -> str:
        """Return "test" for what lies in `testing`, "train" for others, where that is asked for."""
        if not self.official:
            return ""
        return "test" if files[0].mask.parent.parent.name == "testing" else "train"
