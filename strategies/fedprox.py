"""Fine-tuning whose hospitals stay close to the global model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedcl.learning.step import Step
from fedcl.learning.strategy import Strategy
from fedcl.settings import setting


@dataclass
class FedProx(Strategy):
    """FedProx (Li et al., MLSys 2020): L = L_seg + mu / 2 * ||w - w_global||^2.

    w_global are the weights that the round began with. It holds hospitals together within a
    round and knows nothing of earlier stages.

    Attributes:
        mu: weight of the proximal term.
    """

    losses = ("prox",)

    mu: float = setting(0.001, low=0)

    def objective(self, step: Step) -> dict[str, Tensor]:
        """Add the proximal term."""
        drift = [
            (value - step.start[name]).square().sum()
            for name, value in step.student.named_parameters()
        ]
        return super().objective(step) | {"prox": self.mu / 2 * torch.stack(drift).sum()}
