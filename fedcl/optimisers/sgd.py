"""Stochastic gradient descent with momentum, nnU-Net's choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fedcl.errors import ConfigError
from fedcl.optimisers.base import Optimiser
from fedcl.settings import setting


@dataclass
class SGD(Optimiser):
    """Gradient descent; the defaults are those of nnU-Net, whose learning rate is 0.01.

    Attributes:
        momentum: of the moving average of gradients.
        nesterov: whether the gradient is that of the place ahead (Sutskever et al., ICML 2013).
        weight_decay: of the squared weights, half of which is added to the loss.
    """

    momentum: float = setting(0.99, low=0, high=0.9999)
    nesterov: bool = True
    weight_decay: float = setting(3e-5, low=0, high=1)

    def __post_init__(self) -> None:
        """Check that there is something to look ahead by."""
        if self.nesterov and not self.momentum:
            raise ConfigError("optimiser.nesterov: needs a momentum above 0; take false")

    def make(self, groups: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return it; see `Optimiser.make`."""
        return torch.optim.SGD(
            groups, lr=rate, momentum=self.momentum, nesterov=self.nesterov,
            weight_decay=self.weight_decay, fused=True,
        )  # fmt: skip
