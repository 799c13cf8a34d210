"""A field of sines: every hidden layer oscillates."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedcl.data.space import Room
from fedcl.models.base import LayeredField, Outputs, with_latent
from fedcl.settings import setting


@dataclass
class Siren(LayeredField):
    """SIREN (Sitzmann et al., NeurIPS 2020): hidden layers sin(omega (W x + b)).

    Weights begin as U(±1 / d) in the first layer, d the number of its inputs, and as
    U(±sqrt(6 / n) / omega) in all others, n that of theirs.

    Attributes:
        omega: frequency.
    """

    omega: float = setting(30.0, low=1e-3, high=1e6)

    def build(self, room: Room) -> nn.Module:
        """Make the network; see `FieldModel.build`."""
        return Sines(self, room)


class Sines(nn.Module):
    """The network of `Siren`."""

    def __init__(self, model: Siren, room: Room) -> None:
        super().__init__()
        self.omega = model.omega
        self.latent = nn.Parameter(torch.zeros(model.latent)) if model.latent else None
        widths = [len(room.space.axes) + model.latent, *[model.width] * (1 + model.hidden)]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(widths))
        bound = math.sqrt(6 / model.width) / model.omega
        bounds = [1 / widths[0], *[bound] * model.hidden]
        for layer, limit in zip(self.layers, bounds, strict=True):
            nn.init.uniform_(layer.get_parameter("weight"), -limit, limit)
        self.last = Outputs(model.width, room, bound)

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return values, shape (N, outputs), at coordinates, shape (N, axes)."""
        x = with_latent(coordinates, self.latent)
        for layer in self.layers:
            x = self.wave(layer(x))
        answer: Tensor = self.last(x)
        return answer

    def wave(self, z: Tensor) -> Tensor:
        """Return the activation."""
        return torch.sin(self.omega * z)
