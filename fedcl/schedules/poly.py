"""A rate that falls to 0 by a power, nnU-Net's choice."""

from dataclasses import dataclass

from fedcl.schedules.base import Schedule
from fedcl.settings import setting


@dataclass
class Poly(Schedule):
    """(1 - done)^power (Chen et al., TPAMI 2018).

    Attributes:
        power: 1 is a straight line.
    """

    power: float = setting(0.9, above=0, high=10)

    def factor(self, done: float) -> float:
        """Return it; see `Schedule.factor`."""
        return float(max(1.0 - done, 0.0) ** self.power)
