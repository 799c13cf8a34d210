"""Adam."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fedcl.errors import ConfigError
from fedcl.optimisers.base import Optimiser


@dataclass
class Adam(Optimiser):
    """Adam (Kingma and Ba, ICLR 2015).

    Attributes:
        betas: of the moving averages of gradients and of their squares.
    """

    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])

    def __post_init__(self) -> None:
        """Check the betas."""
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optimiser.betas: two numbers from 0 to 1 needed, got {self.betas}")

    def make(self, groups: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return it; see `Optimiser.make`."""
        betas = (self.betas[0], self.betas[1])
        return torch.optim.Adam(groups, lr=rate, betas=betas, fused=True)
