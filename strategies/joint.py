"""Joint training: all sites seen so far train in every round."""

from dataclasses import dataclass

from fedcl.timeline import Timeline
from strategies.base import Strategy


@dataclass
class Joint(Strategy):
    """The upper bound: no site ever leaves, so nothing has to be remembered without data.

    It spends more than the others: in stage t all sites of stages 1..t train the full
    number of rounds, going on from the model of stage t-1.
    """

    def cohort(self, timeline: Timeline, stage: int) -> list[str]:
        """Return all sites that have arrived."""
        return timeline.present(stage)
