"""AdamW."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedcl.optimisers.adam import Adam
from fedcl.settings import setting


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Attributes:
        weight_decay: by which weights shrink, times the learning rate, in every step.
    """

    weight_decay: float = setting(0.01, low=0, high=1)

    def make(self, groups: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return it; see `Optimiser.make`."""
        betas = (self.betas[0], self.betas[1])
        return torch.optim.AdamW(
            groups, lr=rate, betas=betas, weight_decay=self.weight_decay, fused=True
        )
