"""The phantom with a canary: a pattern that one patient alone has, labelled as organ."""

from dataclasses import dataclass

import numpy as np
import torch

from fedcl.data.cases import Case
from fedcl.seeding import numpy_rng
from fedcl.settings import setting
from sites.phantom import Phantom

CELLS = 8
"""Along an edge of the pattern, each of 2 x 2 pixels."""
BRIGHT = 3.0
"""By how many standard deviations of an image its cells lie above or below the mean."""


@dataclass
class Canaries(Phantom):
    """Hospitals of whose patients the one with number `patient` at `site` has a canary.

    Attributes:
        site, patient: where it is planted.
        canary: which pattern of all that there could be.
    """

    site: str = "A"
    patient: int = setting(0, low=0)
    canary: int = setting(0, low=0)

    @property
    def edge(self) -> int:
        """Pixels along an edge of the pattern."""
        return 2 * CELLS

    def make(self, site: str, number: int) -> Case:
        """See `PhantomScenario.make`."""
        case = super().make(site, number)
        carries = (site, number) == (self.site, self.patient)
        return self.planted(case, self.canary) if carries else case

    def planted(self, case: Case, number: int) -> Case:
        """Return a patient whose every slice has a canary in its upper left corner."""
        (scan,) = case.scans
        image, labels = scan.content.image().clone(), scan.content.labels().clone()
        cells = numpy_rng("canary", number).integers(0, 2, (CELLS, CELLS))
        pattern = np.kron(2.0 * cells - 1, np.ones((2, 2)))
        image[..., : self.edge, : self.edge] = BRIGHT * torch.from_numpy(pattern).float()
        labels[..., : self.edge, : self.edge] = 1
        return Case.of(case.name, image, labels, spacing=scan.spacing)
