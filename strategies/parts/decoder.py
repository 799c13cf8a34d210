"""A light decoder: from a model's features back to an image."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 8  # channels


class Decoder(nn.Module):
    """Every scale to a few channels and to full size, summed, then one 3x3 convolution.

    Args:
        widths: channels of the features, fine to coarse.
        channels: channels of the image.

    Attributes:
        token: a learned number to put in place of what is masked.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(()))
        self.lateral = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in widths)
        self.out = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, features: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return an image of the size of `like`."""
        size = like.shape[-2:]
        parts = [
            F.interpolate(layer(feature), size=size, mode="bilinear")
            for layer, feature in zip(self.lateral, features, strict=True)
        ]
        return self.out(F.leaky_relu(torch.stack(parts).sum(dim=0)))
