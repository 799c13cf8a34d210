"""A shift: real images as imaginary scanners would have made them, site by site."""

from dataclasses import astuple, dataclass, replace
from itertools import cycle

import numpy as np

from fedcl.data.reading import Files, Pair
from fedcl.data.scanners import SCANNERS, Scanner, scanned
from fedcl.errors import ConfigError
from fedcl.learning.scenario import Scenario
from fedcl.seeding import numpy_rng
from fedcl.settings import closest, setting

JITTER = 0.1
"""By how much a patient's parameters differ from those of the scanner, at most."""


@dataclass
class Shift:
    """Which imaginary scanner the images of each site are passed through.

    Attributes:
        strength: how far the scanners lie apart: at 0 images stay as they are, at 1 they are as in
            `fedcl.data.scanners`, above 1 further.
        seed: of what differs between a scanner's patients, and of noise.
        scanners: the scanner of each site, by its name; those not named keep their images. Empty:
            the scanners in turn, over the sites in the scenario's own order of arrival.
    """

    strength: float = setting(0.0, low=0, high=2)
    seed: int = setting(0, low=0)
    scanners: dict[str, str] = setting(factory=dict)

    def __post_init__(self) -> None:
        """Raise a ConfigError for a scanner that there is not."""
        for site, name in self.scanners.items():
            if name not in SCANNERS:
                raise ConfigError(
                    f"scenario.shift.scanners.{site}: there is no {name!r}"
                    f"{closest(name, list(SCANNERS))}; there are: {', '.join(SCANNERS)}"
                )

    def over(self, scenario: Scenario) -> "Shift":
        """Return it with a scanner for every site of a scenario, where none has been given one.

        When a run lets sites arrive plays no part: another order brings the same images.

        Raises:
            DataError, ConfigError: the sites cannot be looked for.
        """
        if not self.strength or self.scanners:
            return self
        there = scenario.sites()
        arriving = [site for stage in scenario.arrivals() for site in stage if site in there]
        names = dict.fromkeys([*arriving, *there])
        return replace(self, scanners=dict(zip(names, cycle(SCANNERS), strict=False)))

    def scanner(self, site: str) -> str:
        """Return the name of a site's scanner."""
        return self.scanners.get(site, next(iter(SCANNERS)))

    def told(self, site: str) -> str:
        """Return what a user has to know of a site's images; empty where none is changed."""
        if not self.strength:
            return ""
        name = self.scanner(site)
        kept = ", which leaves them as they came" if SCANNERS[name] == Scanner() else ""
        return (
            f"a simulation: images passed through the imaginary scanner {name}{kept} "
            f"(scenario.shift.strength={self.strength:g})"
        )

    def scanning(self, site: str, patient: str) -> "Scanning | None":
        """Return what is done to the images of a patient; None where that is nothing."""
        scanner = SCANNERS[self.scanner(site)]
        if not self.strength or scanner == Scanner():
            return None
        keys = ("shift", self.seed, site, patient)
        spread = numpy_rng(*keys, "scanner").uniform(1 - JITTER, 1 + JITTER, len(astuple(scanner)))
        return Scanning(scanner.at(self.strength * spread), keys)


@dataclass(frozen=True)
class Scanning:
    """A patient in an imaginary scanner; its text is part of the name of a prepared image.

    Attributes:
        scanner: as it is for this patient.
        keys: what randomness comes from.
    """

    scanner: Scanner
    keys: tuple[str | int, ...]

    def __call__(self, pair: Pair, files: Files, nonzero: bool) -> Pair:
        """Return an image as the scanner would have made it; the labels stay.

        Args:
            pair: as it was read.
            files: of which image of the patient.
            nonzero: whether voxels that are 0 lie outside of what was scanned.
        """
        region = True if pair.region is None else pair.region
        counts = np.broadcast_to(region, pair.image.shape)
        if nonzero:
            counts = counts & (pair.image != 0)
        noise = numpy_rng(*self.keys, files.images[0].name, str(files.frame))
        patient = numpy_rng(*self.keys, "coils")
        image = scanned(pair.image, pair.spacing, self.scanner, patient, noise, counts)
        return replace(pair, image=image)
