"""The imaginary heart again: first the image is learned, then the mask of the blood pool."""

from dataclasses import dataclass

from fedcl.settings import setting
from sites.cine_domain import CineDomain


@dataclass
class CineSignal(CineDomain):
    """Sites hold the signal or the mask of the same frames."""

    masks: list[str] = setting(factory=lambda: ["pool"])
