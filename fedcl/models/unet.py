"""The U-Net of MONAI, in 2-D and 3-D."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from fedcl.errors import ConfigError
from fedcl.models.base import NETWORKS, ImageModel, Layers, defined
from fedcl.settings import setting


@dataclass
class UNet(ImageModel):
    """Residual U-Net (Kerfoot et al., STACOM 2018), as MONAI builds it.

    Attributes:
        channels: feature channels per level, at least two levels; each level below the
            first halves the resolution.
        res_units: residual units per level.
        norm: "instance" (nothing to average between sites that scanners shift) or "batch".
        dropout: probability of dropping a channel.
    """

    channels: list[int] = setting(factory=lambda: [16, 32, 64, 128], low=1, high=4096)
    res_units: int = setting(1, low=0, high=16)
    norm: str = setting("instance", choices=("instance", "batch"))
    dropout: float = setting(0.0, low=0, high=0.9)

    def __post_init__(self) -> None:
        """Check the depth."""
        if len(self.channels) < 2:
            raise ConfigError(f"model.channels: at least two levels needed, got {self.channels}")

    def build(self, channels: int, classes: int, dims: int) -> nn.Module:
        """Make the network; see `ImageModel.build`."""
        return defined(self.definition(channels, classes, dims))

    def definition(self, channels: int, classes: int, dims: int) -> dict[str, Any]:
        """Return it; see `ImageModel.definition`."""
        return {
            "_target_": f"{NETWORKS}UNet",
            "spatial_dims": dims,
            "in_channels": channels,
            "out_channels": classes,
            "channels": self.channels,
            "strides": [2] * (len(self.channels) - 1),
            "num_res_units": self.res_units,
            "norm": self.norm,
            "dropout": self.dropout,
        }

    def multiples(self, dims: int) -> Sequence[int]:
        """Return it; see `ImageModel.multiples`."""
        return (2 ** (len(self.channels) - 1),) * dims

    def watched(self, network: nn.Module) -> Layers:
        """Return the levels of the way down and of the way up."""
        levels = _levels(network)
        down, up = [one[0] for one in levels], [one[2] for one in levels]
        return Layers(down, [levels[-1][1].submodule], up)


def _levels(network: nn.Module) -> list[Any]:
    """Return the levels of MONAI's network: down, around what lies below it, up."""
    from monai.networks.layers import SkipConnection

    found: list[Any] = []
    level: Any = network.model
    while isinstance(level, nn.Sequential) and isinstance(level[1], SkipConnection):
        found.append(level)
        level = level[1].submodule
    return found
