"""A field that sees its coordinates as waves: positional encoding and a ReLU network."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedcl.data.space import Room
from fedcl.models.base import LayeredField, Outputs, with_latent
from fedcl.settings import setting


@dataclass
class PE(LayeredField):
    """Positional encoding (Mildenhall et al., ECCV 2020).

    Attributes:
        waves: octaves L; the network sees x, sin(2^i pi x) and cos(2^i pi x), i < L.
    """

    waves: int = setting(5, low=1, high=16)

    def build(self, room: Room) -> nn.Module:
        """Make the network; see `FieldModel.build`."""
        return Waves(self, room)


class Waves(nn.Module):
    """The network of `PE`."""

    octaves: Tensor

    def __init__(self, model: PE, room: Room) -> None:
        super().__init__()
        self.register_buffer("octaves", 2.0 ** torch.arange(model.waves) * math.pi, False)
        self.latent = nn.Parameter(torch.zeros(model.latent)) if model.latent else None
        widths = [len(room.space.axes) * (1 + 2 * model.waves) + model.latent]
        widths += [model.width] * (1 + model.hidden)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, Outputs(model.width, room))

    def forward(self, coordinates: Tensor) -> Tensor:
        """Return values, shape (N, outputs), at coordinates, shape (N, axes)."""
        angles = (coordinates[:, :, None] * self.octaves).flatten(1)
        waves = torch.cat([coordinates, torch.sin(angles), torch.cos(angles)], dim=1)
        answer: Tensor = self.layers(with_latent(waves, self.latent))
        return answer
