"""Prostate MRI of six sites: `SITE/CaseNN.nii.gz` with `SITE/CaseNN_segmentation.nii.gz`.

As published (Liu et al., IEEE TMI 2020; RUNMC, BMC, I2CVB, UCL, BIDMC, HK) and as prepared by
others, whose masks end in `_gt`.
"""

from dataclasses import dataclass
from typing import Any

from fedcl.settings import setting
from sites.folder import Folder

ORDER = ("RUNMC", "BMC", "I2CVB", "UCL", "BIDMC", "HK")
"""In which the sites arrive in the experiments of TED (Medical Image Analysis 2024)."""

MASKS = ("segmentation", "Segmentation", "gt")


@dataclass
class Prostate(Folder):
    """The sites that are there, in the order of TED; zones are joined to the whole gland.

    Attributes:
        image, mask, patient, labels: as of `folder`.
    """

    image: Any = "{case}.nii.gz"
    mask: Any = setting(factory=lambda: [f"{{case}}_{end}.nii.gz" for end in MASKS])
    patient: str = "^(.+)$"
    labels: list[Any] = setting(factory=lambda: [0, [1, 2]])

    def arrivals(self) -> list[list[str]]:
        """Return `stages`, or one site after the other."""
        there = self.sites() if not self.stages else []
        known = [site for site in ORDER if site in there]
        return self.stages or [[site] for site in [*known, *(s for s in there if s not in known)]]
