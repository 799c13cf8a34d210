"""The residual encoder-decoder that won BraTS 2018, from MONAI."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedcl.errors import ConfigError
from fedcl.models.base import NETWORKS, ImageModel, Layers, defined
from fedcl.settings import setting


@dataclass
class SegResNet(ImageModel):
    """SegResNet (Myronenko, BrainLes 2018), without its autoencoder branch.

    Attributes:
        filters: feature channels of the first level, a multiple of 8 (group normalisation);
            each level below doubles them and halves the resolution.
        down, up: residual blocks per level on the way down and up; one `up` fewer.
        dropout: probability of dropping a channel.
    """

    filters: int = setting(8, low=8, high=1024)
    down: list[int] = setting(factory=lambda: [1, 2, 2, 4], low=1, high=64)
    up: list[int] = setting(factory=lambda: [1, 1, 1], low=1, high=64)
    dropout: float = setting(0.0, low=0, high=0.9)

    def __post_init__(self) -> None:
        """Check what the network cannot be built from."""
        if self.filters % 8:
            raise ConfigError(f"model.filters: must be a multiple of 8, got {self.filters}")
        if len(self.up) != len(self.down) - 1:
            raise ConfigError(
                f"model.up: one entry fewer than model.down needed, got {self.up} and {self.down}"
            )

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return defined(self.definition(channels, classes, dims))

    def definition(self, channels: int, classes: int, dims: int) -> dict[str, Any]:
        """Return it; see `ImageModel.definition`."""
        return {
            "_target_": f"{NETWORKS}SegResNet",
            "spatial_dims": dims,
            "in_channels": channels,
            "out_channels": classes,
            "init_filters": self.filters,
            "blocks_down": self.down,
            "blocks_up": self.up,
            "dropout_prob": self.dropout or None,
        }

    def multiples(self, dims: int) -> Sequence[int]:
        """Return it; see `ImageModel.multiples`."""
        return (2 ** (len(self.down) - 1),) * dims

    def watched(self, network: nn.Module) -> Layers:
        """Return the levels of the encoder and of the decoder."""
        *encoder, bottleneck = network.get_submodule("down_layers").children()
        decoder = list(network.get_submodule("up_layers").children())[::-1]
        return Layers(encoder, [bottleneck], decoder)
