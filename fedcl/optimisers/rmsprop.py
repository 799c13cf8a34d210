"""RMSprop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedcl.optimisers.base import Optimiser
from fedcl.settings import setting


@dataclass
class RMSprop(Optimiser):
    """Gradients over the root of the mean of their squares (Hinton, lecture notes of 2012).

    Attributes:
        alpha: of the moving average of squared gradients.
    """

    alpha: float = setting(0.99, low=0, high=0.9999)

    def make(self, groups: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return it; see `Optimiser.make`."""
        return torch.optim.RMSprop(groups, lr=rate, alpha=self.alpha)
