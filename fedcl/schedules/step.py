"""A rate that falls in steps."""

from dataclasses import dataclass

from fedcl.schedules.base import Schedule
from fedcl.settings import setting


@dataclass
class Steps(Schedule):
    """gamma^floor(steps * done), so that the last part of `steps` has gamma^(steps - 1).

    Attributes:
        steps: parts of the stage in which the rate stays.
        gamma: the factor from one to the next.
    """

    steps: int = setting(3, low=1, high=1000)
    gamma: float = setting(0.5, above=0, high=1)

    def factor(self, done: float) -> float:
        """Return it; see `Schedule.factor`."""
        return float(self.gamma ** min(int(self.steps * done), self.steps - 1))
