"""A U-Net whose encoder is a shifted-window transformer, from MONAI."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedcl.errors import ConfigError
from fedcl.models.base import NETWORKS, ImageModel, Layers, defined
from fedcl.settings import setting


@dataclass
class SwinUNETR(ImageModel):
    """Swin UNETR (Hatamizadeh et al., BrainLes 2021).

    Attributes:
        features: channels of the first level, a multiple of 12.
        depths: transformer blocks in each of the four levels.
        heads: attention heads in each; each number must divide the level's channels.
        dropout: probability of dropping a unit.
    """

    features: int = setting(12, low=12, high=768)
    depths: list[int] = setting(factory=lambda: [2, 2, 2, 2], low=1, high=64)
    heads: list[int] = setting(factory=lambda: [3, 6, 12, 24], low=1, high=64)
    dropout: float = setting(0.0, low=0, high=0.9)

    def __post_init__(self) -> None:
        """Check what the network cannot be built from."""
        if self.features % 12:
            raise ConfigError(f"model.features: must be a multiple of 12, got {self.features}")
        for name, values in (("depths", self.depths), ("heads", self.heads)):
            if len(values) != 4:
                raise ConfigError(f"model.{name}: four numbers needed, got {values}")
        for level, heads in enumerate(self.heads):
            if self.features * 2**level % heads:
                raise ConfigError(
                    f"model.heads: {heads} does not divide the {self.features * 2**level} "
                    f"channels of level {level + 1}"
                )

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return defined(self.definition(channels, classes, dims))

    def definition(self, channels: int, classes: int, dims: int) -> dict[str, Any]:
        """Return it; see `ImageModel.definition`."""
        arguments = self.arguments(channels, classes, dims)
        return {"_target_": f"{NETWORKS}SwinUNETR", **arguments}

    def arguments(self, channels: int, classes: int, dims: int) -> dict[str, Any]:
        """Return how MONAI is asked for the network; arguments as for `build`."""
        return {
            "spatial_dims": dims,
            "in_channels": channels,
            "out_channels": classes,
            "feature_size": self.features,
            "depths": self.depths,
            "num_heads": self.heads,
            "drop_rate": self.dropout,
        }

    def multiples(self, dims: int) -> Sequence[int]:
        """Return it; see `ImageModel.multiples`."""
        return (32,) * dims

    def watched(self, network: nn.Module) -> Layers:
        """Return the encoder blocks, one per resolution, and the decoder blocks."""
        *encoder, bottleneck = (
            network.get_submodule(f"encoder{number}") for number in (1, 2, 3, 4, 10)
        )
        decoder = [network.get_submodule(f"decoder{number}") for number in range(1, 6)]
        return Layers(encoder, [bottleneck], decoder)
