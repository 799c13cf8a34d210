"""What every model offers: its settings, and the network they describe."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn


@dataclass
class Model(ABC):
    """A family of networks; one subclass per file, its fields are the settings."""

    @abstractmethod
    def build(self, channels: int, classes: int) -> nn.Module:
        """Make the network, with weights drawn from torch's global generator.

        Args:
            channels: channels of the input, shape (B, channels, H, W).
            classes: channels of the logits, shape (B, classes, H, W).
        """

    @abstractmethod
    def scales(self, network: nn.Module) -> list[nn.Module]:
        """Return the encoder's layers whose outputs are its features, from fine to coarse.

        Each answers with a tensor of shape (B, F, h, w).

        Args:
            network: as `build` made it.
        """
