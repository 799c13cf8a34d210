"""A large U-Net that segments and rebuilds: the teacher T1 of MTMS."""

from dataclasses import dataclass

from torch import Tensor, nn

from fedcl.models.base import MultiTask
from fedcl.models.plain_unet import Levels, PlainUNet, Upward
from fedcl.settings import setting


@dataclass
class MultiTaskUNet(MultiTask, PlainUNet):
    """`PlainUNet` with a second decoder, for the image (Biswas, arXiv 2406.03173, teacher T1).

    Attributes:
        channels, convolutions: as published; 43 million parameters.
    """

    channels: list[int] = setting(factory=lambda: [64, 128, 256, 512, 1024], low=1, high=4096)
    convolutions: int = setting(2, low=1, high=8)

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return TwoWays(self, channels, classes, dims)


class TwoWays(Levels):
    """The network of `MultiTaskUNet`."""

    def __init__(self, model: MultiTaskUNet, channels: int, classes: int, dims: int) -> None:
        super().__init__(model, channels, classes, dims)
        self.rebuild = Upward(model, channels, dims)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits; see `Levels.forward`. The rebuilt image is for who watches."""
        seen = self.seen(images)
        if self.training:
            self.rebuild(seen)
        logits: Tensor = self.segment(seen)
        return logits
