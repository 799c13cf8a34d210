"""Federated averaging of everything but the normalisation layers."""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from fedcl.errors import ConfigError
from fedcl.learning.strategy import Partition
from strategies.individual import Individual


@dataclass
class FedBN(Individual):
    """FedBN (Li et al., ICLR 2021): normalisation layers stay at the hospital.

    Each hospital is evaluated with its own layers, those of its last training. What stays is
    the affine weights and the running statistics, so the model must have some.
    """

    def partition(self, network: nn.Module, stage: int) -> Partition:
        """Keep the arrays of the normalisation layers at the hospital.

        Raises:
            ConfigError: there are none.
        """
        names = frozenset(
            f"{name}.{key}"
            for name, module in network.named_modules()
            if isinstance(module, _NormBase | nn.GroupNorm | nn.LayerNorm)
            for key in module.state_dict()
        )
        if not names:
            raise ConfigError(
                "strategy: fedbn keeps the weights of normalisation layers, and this model's "
                "have none; for the U-Net give model.norm=batch"
            )
        return Partition(local=names)
