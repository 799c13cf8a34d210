"""A field of sines whose frequency grows with what goes in."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcl.data.space import Room
from fedcl.models.siren import Sines, Siren
from fedcl.settings import setting


@dataclass
class Finer(Siren):
    """FINER (Liu et al., CVPR 2024): hidden layers sin(omega (|z| + 1) z), z = W x + b.

    The factor |z| + 1 takes no gradient. Weights begin as those of `Siren`.

    Attributes:
        bias: the first layer's biases begin as U(±bias); None for PyTorch's own.
    """

    bias: float | None = setting(None, above=0, high=1e6)

    def build(self, room: Room) -> nn.Module:
        """Make the network; see `FieldModel.build`."""
        network = VariableSines(self, room)
        if self.bias is not None:
            first = network.get_parameter("layers.0.bias")
            nn.init.uniform_(first, -self.bias, self.bias)
        return network


class VariableSines(Sines):
    """The network of `Finer`."""

    def wave(self, z: Tensor) -> Tensor:
        """Return the activation."""
        with torch.no_grad():
            factor = self.omega * (z.abs() + 1)
        return torch.sin(factor * z)
