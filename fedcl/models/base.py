"""What every model offers: its settings, and the network they describe."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn


@dataclass
class Model:
    """A family of networks; one subclass per file, its fields are the settings."""

    def scales(self, network: nn.Module) -> list[nn.Module]:
        """Return the layers whose outputs are the network's features, from fine to coarse.

        Args:
            network: as `build` made it.
        """
        return []


class ImageModel(Model, ABC):
    """Networks from images to a map of logits; their features have shape (B, F, h, w)."""

    @abstractmethod
    def build(self, channels: int, classes: int) -> nn.Module:
        """Make the network, with weights drawn from torch's global generator.

        Args:
            channels: channels of the input, shape (B, channels, H, W).
            classes: channels of the logits, shape (B, classes, H, W).
        """
