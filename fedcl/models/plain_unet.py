"""The U-Net as first drawn: convolutions, pooling, skip connections, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedcl.errors import ConfigError
from fedcl.models.base import ImageModel, Layers, of_dims
from fedcl.settings import setting


@dataclass
class PlainUNet(ImageModel):
    """U-Net (Ronneberger et al., MICCAI 2015) with padded convolutions and normalisation.

    As large teacher (64 to 1024 channels, two convolutions per level) and small student (16 to
    64, one) in Biswas, arXiv 2406.03173.

    Attributes:
        channels: feature channels per level, at least two levels; each level below the first
            halves the resolution.
        convolutions: of width 3 per level, each with normalisation and ReLU.
        norm: "batch", as published, or "instance".
    """

    channels: list[int] = setting(factory=lambda: [16, 32, 64], low=1, high=4096)
    convolutions: int = setting(1, low=1, high=8)
    norm: str = setting("batch", choices=("batch", "instance"))

    def __post_init__(self) -> None:
        """Check the depth."""
        if len(self.channels) < 2:
            raise ConfigError(f"model.channels: at least two levels needed, got {self.channels}")

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return Levels(self, channels, classes, dims)

    def multiples(self, dims: int) -> Sequence[int]:
        """Return it; see `ImageModel.multiples`."""
        return (2 ** (len(self.channels) - 1),) * dims

    def watched(self, network: nn.Module) -> Layers:
        """Return the levels of the way down and of the way up."""
        *encoder, bottleneck = network.get_submodule("down").children()
        decoder = list(network.get_submodule("segment.up").children())[::-1]
        return Layers(encoder, [bottleneck], decoder)


class Levels(nn.Module):
    """The network of `PlainUNet`."""

    def __init__(self, model: PlainUNet, channels: int, classes: int, dims: int) -> None:
        super().__init__()
        pairs = zip([channels, *model.channels], model.channels, strict=False)
        self.down = nn.ModuleList(level(model, before, after, dims) for before, after in pairs)
        self.segment = Upward(model, classes, dims)
        self._halve = of_dims("MaxPool", dims)(2)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, classes, ...), of images, shape (B, channels, ...)."""
        logits: Tensor = self.segment(self.seen(images))
        return logits

    def seen(self, images: Tensor) -> list[Tensor]:
        """Return what every level makes of images, fine to coarse."""
        kept = [self.down[0](images)]
        for block in self.down[1:]:
            kept.append(block(self._halve(kept[-1])))
        return kept


class Upward(nn.Module):
    """The way back to full size, with what each level has seen, and a head."""

    def __init__(self, model: PlainUNet, outputs: int, dims: int) -> None:
        super().__init__()
        steps = list(zip(model.channels[:0:-1], model.channels[-2::-1], strict=True))
        self.widen = nn.ModuleList(
            of_dims("ConvTranspose", dims)(low, up, 2, 2) for low, up in steps
        )
        self.up = nn.ModuleList(level(model, 2 * up, up, dims) for _, up in steps)
        self.head = of_dims("Conv", dims)(model.channels[0], outputs, 1)

    def forward(self, seen: Sequence[Tensor]) -> Tensor:
        """Return a map of `outputs` channels in the size of the finest level."""
        x = seen[-1]
        for widen, block, skip in zip(self.widen, self.up, seen[-2::-1], strict=True):
            x = block(torch.cat([skip, widen(x)], dim=1))
        found: Tensor = self.head(x)
        return found


def level(model: PlainUNet, before: int, after: int, dims: int) -> nn.Sequential:
    """Return the convolutions of one level, from `before` channels to `after`."""
    norm = of_dims("BatchNorm" if model.norm == "batch" else "InstanceNorm", dims)
    layers: list[nn.Module] = []
    for number in range(model.convolutions):
        # The normalisation takes the mean away: a bias would have no effect.
        layers += [
            of_dims("Conv", dims)(after if number else before, after, 3, padding=1, bias=False),
            norm(after, affine=True),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)
