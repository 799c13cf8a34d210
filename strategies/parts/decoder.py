"""A light decoder: from a model's features back to an image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.models.base import of_dims, resized

WIDTH = 8  # channels


class Decoder(nn.Module):
    """Every scale to a few channels and to full size, summed, then one convolution of width 3.

    Args:
        widths: channels of the features, fine to coarse.
        channels: channels of the image.
        dims: of the image, 2 or 3.

    Attributes:
        token: a learned number to put in place of what is masked.
    """

    def __init__(self, widths: Sequence[int], channels: int, dims: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(()))
        self.lateral = nn.ModuleList(of_dims("Conv", dims)(width, WIDTH, 1) for width in widths)
        self.out = of_dims("Conv", dims)(WIDTH, channels, 3, padding=1)

    def forward(self, features: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return an image of the size of `like`."""
        parts = [
            resized(layer(feature), like.shape[2:])
            for layer, feature in zip(self.lateral, features, strict=True)
        ]
        image: Tensor = self.out(F.leaky_relu(torch.stack(parts).sum(dim=0)))
        return image
