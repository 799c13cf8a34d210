"""What every optimiser offers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class Optimiser(ABC):
    """A way to follow gradients; a subclass's fields are its settings.

    It is made anew in every round, at every site.

    Attributes:
        keep: whether a site keeps what it has gathered (Adam's moments, the momentum) for its next
            round in the stage; otherwise every round begins anew, as does every stage.
    """

    keep: bool = False

    @abstractmethod
    def make(self, groups: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
        """Return torch's optimiser.

        Args:
            groups: of parameters, as torch takes them.
            rate: the learning rate to begin with.
        """
