"""nnU-Net's network, from MONAI: kernels and strides per level and axis, deep supervision."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fedcl.errors import ConfigError
from fedcl.models.base import ImageModel, Layers
from fedcl.settings import setting


@dataclass
class DynUNet(ImageModel):
    """The U-Net of nnU-Net (Isensee et al., Nature Methods 2021): two convolutions per level.

    In training, logits of coarser levels are judged as well (deep supervision): the loss gets
    sum_i 2^-i L_i, L_i being the task's loss of the i-th level below full size, against labels
    reduced to its size.

    Attributes:
        filters: channels per level, at least three; nnU-Net goes from 32 to 320.
        strides: of every level but the first, a number or one per axis (slice, row, column); by
            default 2. Along an axis of thick slices take 1 until the others have caught up.
        kernels: widths of the convolutions of every level, likewise; by default 3.
        supervised: how many coarser levels are judged.
        residual: whether convolutions are bypassed.
        dropout: probability of dropping a unit.
    """

    losses = ("deep",)

    filters: list[int] = setting(factory=lambda: [16, 32, 64, 128], low=1, high=4096)
    strides: list[Any] = setting(factory=list)
    kernels: list[Any] = setting(factory=list)
    supervised: int = setting(2, low=0, high=8)
    residual: bool = False
    dropout: float = setting(0.0, low=0, high=0.9)

    def __post_init__(self) -> None:
        """Check the levels."""
        levels = len(self.filters)
        if levels < 3:
            raise ConfigError(f"model.filters: at least three levels needed, got {self.filters}")
        for name, length in (("strides", levels - 1), ("kernels", levels)):
            values = getattr(self, name)
            if values and len(values) != length:
                raise ConfigError(
                    f"model.{name}: {length} needed for {levels} levels, got {len(values)}"
                )
        if self.supervised > levels - 2:
            raise ConfigError(
                f"model.supervised: at most {levels - 2} for {levels} levels, got {self.supervised}"
            )

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        from monai.networks.nets import DynUNet as MonaiDynUNet  # takes seconds

        strides = self._strides(dims)
        return Levels(
            MonaiDynUNet(
                spatial_dims=dims,
                in_channels=channels,
                out_channels=classes,
                kernel_size=[_axes(k, dims, "kernels") for k in self.kernels or [3] * len(strides)],
                strides=strides,
                upsample_kernel_size=strides[1:],
                filters=self.filters,
                dropout=self.dropout or None,
                deep_supervision=self.supervised > 0,
                deep_supr_num=max(self.supervised, 1),
                res_block=self.residual,
            )
        )

    def _strides(self, dims: int) -> list[list[int]]:
        """Return the strides of all levels, axis by axis."""
        below = self.strides or [2] * (len(self.filters) - 1)
        return [_axes(stride, dims, "strides") for stride in [1, *below]]

    def multiples(self, dims: int) -> Sequence[int]:
        """Return it; see `ImageModel.multiples`."""
        return [math.prod(along) for along in zip(*self._strides(dims), strict=True)]

    def watched(self, network: nn.Module) -> Layers:
        """Return the levels of the way down and of the way up, and the heads of coarser ones."""
        down = [network.get_submodule("input_block"), *_children(network, "downsamples")]
        layers = Layers(
            down, [network.get_submodule("bottleneck")], _children(network, "upsamples")[::-1]
        )
        if not self.supervised:
            return layers
        return replace(layers, aside=_children(network, "deep_supervision_heads"))

    @property
    def judged(self) -> bool:
        """See `Model.judged`."""
        return self.supervised > 0

    def terms(
        self, aside: Sequence[Tensor], inputs: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return the loss of the coarser levels."""
        weighted = [loss(logits) / 2**level for level, logits in enumerate(aside, start=1)]
        return {"deep": torch.stack(weighted).sum()}


class Levels(nn.Module):
    """The blocks of a MONAI network, each once: it has them a second time, in nested layers.

    Args:
        network: whose blocks these become.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, block in network.named_children():
            if name != "skip_layers":
                self.add_module(name, block)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (B, classes, ...), of images, shape (B, channels, ...).

        In training, heads judge the coarser levels for who watches them.
        """
        seen = [self.get_submodule("input_block")(images)]
        for down in _children(self, "downsamples"):
            seen.append(down(seen[-1]))
        x = self.get_submodule("bottleneck")(seen[-1])
        heads = dict(enumerate(_children(self, "deep_supervision_heads"), start=1))
        for level, (up, skip) in enumerate(
            zip(_children(self, "upsamples"), seen[::-1], strict=True), start=1 - len(seen)
        ):
            x = up(x, skip)
            if self.training and -level in heads:
                heads[-level](x)
        logits: Tensor = self.get_submodule("output_block")(x)
        return logits


def _children(network: nn.Module, name: str) -> list[nn.Module]:
    """Return the blocks of a list in a network; none where there is no such list."""
    return list(getattr(network, name, nn.ModuleList()).children())


def _axes(value: Any, dims: int, name: str) -> list[int]:
    """Return a number for every axis.

    Raises:
        ConfigError: it is neither a number nor one per axis.
    """
    numbers = list(value) if isinstance(value, list | tuple) else [value] * dims
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 16 for n in numbers)
    if len(numbers) != dims or not whole:
        raise ConfigError(
            f"model.{name}: a whole number from 1 to 16 needed per level, or a list of {dims} "
            f"(scenario.spatial_dims), got {value!r}"
        )
    return numbers
