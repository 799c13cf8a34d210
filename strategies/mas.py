"""Memory aware synapses: weights that move the output are held where they were."""

from dataclasses import dataclass

from torch import Tensor

from fedcl.settings import setting
from strategies.ewc import EWC


@dataclass
class MAS(EWC):
    """MAS (Aljundi et al., ECCV 2018): EWC's penalty with another importance.

    For every training slice the absolute gradient of the squared norm of the logits (mean
    over pixels); labels are not used. Averaged, scaled and summed as in `EWC`.
    """

    weight: float = setting(0.03, low=0)

    def sensitivity(self, logits: Tensor, label: Tensor) -> Tensor:
        """Return the squared norm of the logits, mean over pixels."""
        return logits.square().sum(dim=1).mean()

    def magnitude(self, gradient: Tensor) -> Tensor:
        """Return its absolute value."""
        return gradient.abs()
