"""The phantom with hospitals whose labels are the wrong way round: organ and background."""

from dataclasses import dataclass

import torch

from fedcl.data.cases import Case
from fedcl.settings import setting
from sites.phantom import Phantom


@dataclass
class Mislabelled(Phantom):
    """Hospitals that are all alike but for their labels.

    Attributes:
        wrong: whose labels are the wrong way round.
    """

    strength: float = setting(0.0, low=0, high=2)
    wrong: list[str] = setting(factory=list)

    def make(self, site: str, number: int) -> Case:
        """See `PhantomScenario.make`."""
        case = super().make(site, number)
        if site not in self.wrong:
            return case
        (scan,) = case.scans
        return Case.of(
            case.name,
            torch.as_tensor(scan.content.image()),
            1 - torch.as_tensor(scan.content.labels()).to(torch.uint8),
            spacing=scan.spacing,
        )
