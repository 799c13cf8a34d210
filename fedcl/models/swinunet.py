"""A U-Net of shifted-window transformers alone, built from MONAI's blocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedcl.errors import ConfigError
from fedcl.models.base import ImageModel, Layers, of_dims
from fedcl.settings import setting


@dataclass
class SwinUNet(ImageModel):
    """Swin-Unet (Cao et al., ECCV Workshops 2022).

    With the default settings 27.17 million parameters, as published.

    Attributes:
        features: channels of the first level, doubled with each one below; a multiple of its
            heads.
        depths: transformer blocks per level, on the way down and, but for the last, on that up.
        heads: attention heads per level; each number must divide the level's channels.
        patch: width of the parts of an image that are the first level's positions.
        window: width of the windows within which positions see each other, in positions. Images
            are padded until it divides every level: of four levels to multiples of 32 windows,
            224 with 7, 192 with 6.
        drop_path: chance to leave out the last block in training; it rises from 0 at the first.
    """

    features: int = setting(96, low=2, high=2048)
    depths: list[int] = setting(factory=lambda: [2, 2, 2, 2], low=1, high=64)
    heads: list[int] = setting(factory=lambda: [3, 6, 12, 24], low=1, high=128)
    patch: int = setting(4, low=1, high=64)
    window: int = setting(7, low=2, high=64)
    drop_path: float = setting(0.2, low=0, high=0.9)

    def __post_init__(self) -> None:
        """Check what the network cannot be built from."""
        if len(self.depths) < 2 or len(self.heads) != len(self.depths):
            raise ConfigError(
                "model.heads: one number per level needed, as many as in model.depths and at "
                f"least two, got {self.heads} and {self.depths}"
            )
        for level, (wide, heads) in enumerate(zip(self.channels, self.heads, strict=True)):
            if wide % heads:
                raise ConfigError(
                    f"model.heads: {heads} does not divide the {wide} channels of level {level + 1}"
                )
        if self.features % 2:
            raise ConfigError(f"model.features: must be even, got {self.features}")

    @property
    def channels(self) -> list[int]:
        """The channels of every level."""
        return [self.features * 2**level for level in range(len(self.depths))]

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return Transformers(self, channels, classes, dims)

    def multiples(self, dims: int) -> Sequence[int]:
        """Return it; see `ImageModel.multiples`."""
        return (self.patch * 2 ** (len(self.depths) - 1) * self.window,) * dims

    def watched(self, network: nn.Module) -> Layers:
        """Return the blocks of every level, on the way down and on that up, and the full size."""
        *encoder, bottleneck = network.get_submodule("down").children()
        decoder = list(network.get_submodule("up").children())[::-1]
        return Layers(encoder, [bottleneck], [network.get_submodule("unfold"), *decoder])


class Transformers(nn.Module):
    """The network of `SwinUNet`; maps are of shape (B, C, ...) throughout."""

    def __init__(self, model: SwinUNet, channels: int, classes: int, dims: int) -> None:
        super().__init__()
        from monai.networks.blocks.patchembedding import PatchEmbed  # takes seconds

        wide, conv = model.channels, of_dims("Conv", dims)
        count = sum(model.depths)
        skipped = [model.drop_path * n / max(count - 1, 1) for n in range(count)]
        rates = [skipped[sum(model.depths[:n]) :][:depth] for n, depth in enumerate(model.depths)]
        levels = range(len(wide))
        self.embed = PatchEmbed(model.patch, channels, wide[0], nn.LayerNorm, dims)
        self.down = nn.ModuleList(blocks(model, n, rates[n], dims) for n in levels)
        self.merge = nn.ModuleList(Merge(before, dims) for before in wide[:-1])
        self.deep = ChannelNorm(wide[-1])
        back = list(pairwise(wide[::-1]))
        self.widen = nn.ModuleList(Expand(low, up, 2, dims) for low, up in back)
        self.fuse = nn.ModuleList(conv(2 * up, up, 1) for _, up in back)
        self.up = nn.ModuleList(blocks(model, n, rates[n], dims) for n in levels[-2::-1])
        self.last = ChannelNorm(wide[0])
        self.unfold = Expand(wide[0], wide[0], model.patch, dims)
        self.head = conv(wide[0], classes, 1, bias=False)
        self.apply(begin)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, classes, ...), of images, shape (B, channels, ...)."""
        x = self.embed(images)
        kept = []
        for level, merge in zip(self.down, self.merge, strict=False):
            kept.append(x)  # what a level is given, not what it makes of it, as published
            x = merge(level(x))
        x = self.deep(self.down[-1](x))
        for widen, fuse, level in zip(self.widen, self.fuse, self.up, strict=True):
            x = level(fuse(torch.cat([widen(x), kept.pop()], dim=1)))
        logits: Tensor = self.head(self.unfold(self.last(x)))
        return logits


def blocks(model: SwinUNet, level: int, skipped: Sequence[float], dims: int) -> nn.Module:
    """Return the transformer blocks of a level.

    Args:
        model: says how many, and how wide.
        level: counted from 0, from fine to coarse.
        skipped: the chance of each block to be left out in training.
        dims: of an image, 2 or 3.
    """
    from monai.networks.nets.swin_unetr import BasicLayer  # takes seconds

    made: nn.Module = BasicLayer(
        dim=model.channels[level],
        depth=model.depths[level],
        num_heads=model.heads[level],
        window_size=(model.window,) * dims,
        drop_path=list(skipped),
        qkv_bias=True,
    )
    return made


def begin(module: nn.Module) -> None:
    """Let what is linear at every position begin small, as published for the transformer."""
    if isinstance(module, nn.Linear) or getattr(module, "kernel_size", (0,))[0] == 1:
        nn.init.trunc_normal_(module.get_parameter("weight"), std=0.02)
        for name, parameter in module.named_parameters():
            if name == "bias":
                nn.init.zeros_(parameter)


def channels_last(maps: Tensor) -> Tensor:
    """Return maps, shape (B, C, ...), as (B, ..., C)."""
    return maps.movedim(1, maps.ndim - 1)  # ONNX takes no axis counted from the end


def channels_first(maps: Tensor) -> Tensor:
    """Return maps, shape (B, ..., C), as (B, C, ...)."""
    return maps.movedim(maps.ndim - 1, 1)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of maps, shape (B, C, ...)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return them normalised, position by position."""
        return channels_first(super().forward(channels_last(maps)))


class Merge(nn.Module):
    """Half the resolution, twice the channels, by MONAI's merging of neighbours."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        from monai.networks.nets.swin_unetr import PatchMergingV2  # takes seconds

        self.merging = PatchMergingV2(channels, spatial_dims=dims)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps, shape (B, 2 C, ...), of maps, shape (B, C, ...)."""
        return channels_first(self.merging(channels_last(maps)))


class Expand(nn.Module):
    """Patch expanding: channels become finer positions."""

    def __init__(self, before: int, after: int, factor: int, dims: int) -> None:
        super().__init__()
        self.widen = of_dims("Conv", dims)(before, after * factor**dims, 1, bias=False)
        self.norm = ChannelNorm(after)
        self._factor = factor

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps that are `factor` times as large along every axis."""
        from monai.networks.utils import pixelshuffle  # takes seconds

        wide = self.widen(maps)
        expanded: Tensor = self.norm(pixelshuffle(wide, wide.ndim - 2, self._factor))
        return expanded
