"""What every schedule offers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass
class Schedule(ABC):
    """How the learning rate changes; it begins anew with every stage."""

    @abstractmethod
    def factor(self, done: float) -> float:
        """Return the factor on the learning rate when a share of the stage, 0 to 1, is done."""
