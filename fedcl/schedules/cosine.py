"""A rate that falls along half a cosine."""

import math
from dataclasses import dataclass

from fedcl.schedules.base import Schedule
from fedcl.settings import setting


@dataclass
class Cosine(Schedule):
    """least + (1 - least) (1 + cos(pi done)) / 2 (Loshchilov and Hutter, ICLR 2017).

    Attributes:
        least: the factor at the end of the stage.
    """

    least: float = setting(0.0, low=0, high=1)

    def factor(self, done: float) -> float:
        """Return it; see `Schedule.factor`."""
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
