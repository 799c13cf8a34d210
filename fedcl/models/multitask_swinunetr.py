"""A Swin UNETR that segments and rebuilds: a transformer as teacher, T2 of MTMS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from torch import Tensor, nn

from fedcl.models.base import MultiTask
from fedcl.models.swinunetr import SwinUNETR
from fedcl.settings import setting


@dataclass
class MultiTaskSwinUNETR(MultiTask, SwinUNETR):
    """`SwinUNETR` with a second decoder, for the image; the published T2 is a TransUNet.

    Attributes:
        features: channels of the first level, a multiple of 12.
    """

    features: int = setting(48, low=12, high=768)

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return TwoWays(self, channels, classes, dims)

    def definition(self, channels: int, classes: int, dims: int) -> dict[str, Any]:
        """Return nothing: MONAI's network has one decoder; see `ImageModel.definition`."""
        return {}


class TwoWays(MonaiSwinUNETR):
    """The network of `MultiTaskSwinUNETR`."""

    def __init__(self, model: MultiTaskSwinUNETR, channels: int, classes: int, dims: int) -> None:
        super().__init__(**model.arguments(channels, classes, dims))
        self.rebuild = Upward(MonaiSwinUNETR(**model.arguments(channels, channels, dims)))

    def forward(self, x_in: Tensor) -> Tensor:
        """Return logits, shape (B, classes, ...), of images, shape (B, channels, ...).

        The rebuilt image is for who watches the layer.
        """
        tokens = self.swinViT(x_in, self.normalize)
        fine = (self.encoder2(tokens[0]), self.encoder3(tokens[1]), self.encoder4(tokens[2]))
        seen = [self.encoder1(x_in), *fine, tokens[3], self.encoder10(tokens[4])]
        if self.training:
            self.rebuild(seen)
        return upward(self, seen)


class Upward(nn.Module):
    """The decoder of a MONAI network, without the rest of it."""

    def __init__(self, network: MonaiSwinUNETR) -> None:
        super().__init__()
        for name in (*DECODER, "out"):
            self.add_module(name, network.get_submodule(name))

    def forward(self, seen: Sequence[Tensor]) -> Tensor:
        """Return a map in the size of the image; see `upward`."""
        return upward(self, seen)


DECODER = ("decoder5", "decoder4", "decoder3", "decoder2", "decoder1")


def upward(network: nn.Module, seen: Sequence[Tensor]) -> Tensor:
    """Return what a decoder makes of what the encoder has seen, given fine to coarse."""
    x = seen[-1]
    for name, skip in zip(DECODER, seen[-2::-1], strict=True):
        x = network.get_submodule(name)(x, skip)
    found: Tensor = network.get_submodule("out")(x)
    return found
