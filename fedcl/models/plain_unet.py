"""The U-Net as first drawn: convolutions, pooling, skip connections, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedcl.errors import ConfigError
from fedcl.models.base import ImageModel, Layers, of_dims
from fedcl.settings import setting

NORMS: dict[str, tuple[str, dict[str, bool]]] = {
    "batch": ("BatchNorm", {}),
    "batch_own": ("BatchNorm", {"track_running_stats": False}),
    "instance": ("InstanceNorm", {}),
}
"""Of every normalisation its layer, and how it is asked for."""


@dataclass
class PlainUNet(ImageModel):
    """U-Net (Ronneberger et al., MICCAI 2015) with padded convolutions and normalisation.

    As large teacher (64 to 1024 channels, two convolutions per level) and small student (16 to
    64, one) in Biswas, arXiv 2406.03173. With biases, without narrowing and first_norm it has the
    form of Pérez-García's `unet` (Zenodo 3697931), on five levels that of TED's network.

    Attributes:
        channels: feature channels per level, at least two levels; each level below the first
            halves the resolution.
        convolutions: of width 3 per level, each with normalisation and ReLU.
        norm: "batch", as published, "batch_own", the same without running statistics, so that
            in tests too a batch is normalised by its own, or "instance".
        bias: whether convolutions have one, although the normalisation takes it away.
        narrowing: whether the transposed convolutions narrow to the channels of the level that
            they lead to; otherwise they keep them, and the convolution after does.
        first_norm: whether the very first convolution is normalised.
    """

    channels: list[int] = setting(factory=lambda: [16, 32, 64], low=1, high=4096)
    convolutions: int = setting(1, low=1, high=8)
    norm: str = setting("batch", choices=tuple(NORMS))
    bias: bool = False
    narrowing: bool = True
    first_norm: bool = True

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
        first, *further = pairwise([channels, *model.channels])
        self.down = nn.ModuleList([level(model, *first, dims, model.first_norm)])
        self.down.extend(level(model, before, after, dims) for before, after in further)
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
        steps = list(pairwise(model.channels[::-1]))
        handed = [up if model.narrowing else low for low, up in steps]
        self.widen = nn.ModuleList(
            of_dims("ConvTranspose", dims)(low, width, 2, 2)
            for (low, _), width in zip(steps, handed, strict=True)
        )
        self.up = nn.ModuleList(
            level(model, up + width, up, dims) for (_, up), width in zip(steps, handed, strict=True)
        )
        self.head = of_dims("Conv", dims)(model.channels[0], outputs, 1)

    def forward(self, seen: Sequence[Tensor]) -> Tensor:
        """Return a map of `outputs` channels in the size of the finest level."""
        x = seen[-1]
        for widen, block, skip in zip(self.widen, self.up, seen[-2::-1], strict=True):
            x = block(torch.cat([skip, widen(x)], dim=1))
        found: Tensor = self.head(x)
        return found


def level(
    model: PlainUNet, before: int, after: int, dims: int, first_norm: bool = True
) -> nn.Sequential:
    """Return the convolutions of one level, from `before` channels to `after`.

    Args:
        model: says how many there are and how they are normalised.
        before: channels of the input.
        after: channels of the output.
        dims: of an image, 2 or 3.
        first_norm: whether the first one is normalised.
    """
    name, how = NORMS[model.norm]
    layers: list[nn.Module] = []
    for number in range(model.convolutions):
        normalised = first_norm or number > 0
        # A normalisation takes the mean away: a bias before it would have no effect.
        bias, entering = model.bias or not normalised, after if number else before
        layers.append(of_dims("Conv", dims)(entering, after, 3, padding=1, bias=bias))
        if normalised:
            layers.append(of_dims(name, dims)(after, affine=True, **how))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
