"""A rate that falls by the same factor in equal times."""

from dataclasses import dataclass

from fedcl.schedules.base import Schedule
from fedcl.settings import setting


@dataclass
class Exponential(Schedule):
    """decay^done.

    Attributes:
        decay: what the rate has fallen to at the end of the stage, as a factor; 1, and it stays.
    """

    decay: float = setting(1.0, above=0, high=1)

    def factor(self, done: float) -> float:
        """Return it; see `Schedule.factor`."""
        return float(self.decay**done)
