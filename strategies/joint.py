"""Joint training: all sites that are there train in every round."""

from dataclasses import dataclass, replace

from fedcl.learning.strategy import Plan, Strategy
from fedcl.timeline import Timeline


@dataclass
class Joint(Strategy):
    """The upper bound, in name: who has arrived goes on training, so all is remembered, from data.

    It spends more than the others: in stage t all sites of stages 1..t that have not left train
    the full number of rounds, going on from the model of stage t-1.
    """

    def plan(self, timeline: Timeline, stage: int) -> Plan:
        """Let all sites train that are there."""
        return replace(super().plan(timeline, stage), cohort=timeline.present(stage))
