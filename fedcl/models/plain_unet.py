"""The U-Net as first drawn: convolutions, pooling, skip connections, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.errors import ConfigError
from fedcl.models.base import ImageModel, Layers
from fedcl.settings import setting


@dataclass
class PlainUNet(ImageModel):
    """U-Net (Ronneberger et al., MICCAI 2015) with padded convolutions and normalisation.

    As large teacher (64 to 1024 channels, two convolutions per level) and small student (16 to
    64, one) in Biswas, arXiv 2406.03173.

    Attributes:
        channels: feature channels per level, at least two levels; each level below the first
            halves the resolution.
        convolutions: 3 x 3 convolutions per level, each with normalisation and ReLU.
        norm: "batch", as published, or "instance".
    """

    channels: list[int] = setting(factory=lambda: [16, 32, 64], low=1)
    convolutions: int = setting(1, low=1, high=8)
    norm: str = setting("batch", choices=("batch", "instance"))

    def __post_init__(self) -> None:
        """Check the depth."""
        if len(self.channels) < 2:
            raise ConfigError(f"model.channels: at least two levels needed, got {self.channels}")

    def build(self, channels: int, classes: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return Levels(self, channels, classes)

    def watched(self, network: nn.Module) -> Layers:
        """Return the levels of the way down and of the way up."""
        *encoder, bottleneck = network.get_submodule("down").children()
        decoder = list(network.get_submodule("segment.up").children())[::-1]
        return Layers(encoder, [bottleneck], decoder)


class Levels(nn.Module):
    """The network of `PlainUNet`."""

    def __init__(self, model: PlainUNet, channels: int, classes: int) -> None:
        super().__init__()
        pairs = zip([channels, *model.channels], model.channels, strict=False)
        self.down = nn.ModuleList(level(model, before, after) for before, after in pairs)
        self.segment = Upward(model, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, classes, H, W), of images, shape (B, channels, H, W).

        H and W must be multiples of 2 to the number of levels less one.
        """
        logits: Tensor = self.segment(self.seen(images))
        return logits

    def seen(self, images: Tensor) -> list[Tensor]:
        """Return what every level makes of images, fine to coarse."""
        kept = [self.down[0](images)]
        for block in self.down[1:]:
            kept.append(block(F.max_pool2d(kept[-1], 2)))
        return kept


class Upward(nn.Module):
    """The way back to full size, with what each level has seen, and a head."""

    def __init__(self, model: PlainUNet, outputs: int) -> None:
        super().__init__()
        steps = list(zip(model.channels[:0:-1], model.channels[-2::-1], strict=True))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(low, up, 2, 2) for low, up in steps)
        self.up = nn.ModuleList(level(model, 2 * up, up) for _, up in steps)
        self.head = nn.Conv2d(model.channels[0], outputs, 1)

    def forward(self, seen: Sequence[Tensor]) -> Tensor:
        """Return a map of `outputs` channels in the size of the finest level."""
        x = seen[-1]
        for widen, block, skip in zip(self.widen, self.up, seen[-2::-1], strict=True):
            x = block(torch.cat([skip, widen(x)], dim=1))
        found: Tensor = self.head(x)
        return found


def level(model: PlainUNet, before: int, after: int) -> nn.Sequential:
    """Return the convolutions of one level, from `before` channels to `after`."""
    norm = nn.BatchNorm2d if model.norm == "batch" else nn.InstanceNorm2d
    layers: list[nn.Module] = []
    for number in range(model.convolutions):
        # The normalisation takes the mean away: a bias would have no effect.
        layers += [
            nn.Conv2d(after if number else before, after, 3, padding=1, bias=False),
            norm(after, affine=True),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
