"""Individual training: every hospital keeps a model of its own."""

from dataclasses import dataclass, replace

from torch import nn

from fedcl.learning.strategy import Partition, Plan, Strategy
from fedcl.timeline import Timeline


@dataclass
class Individual(Strategy):
    """No federation: all weights stay at the hospital and only scores leave it.

    A site is evaluated with its own model, so only once it has arrived.
    """

    def partition(self, network: nn.Module, stage: int) -> Partition:
        """Keep every array at the hospital."""
        return Partition(local=frozenset(network.state_dict()))

    def plan(self, timeline: Timeline, stage: int) -> Plan:
        """Test the sites that have arrived and so have a model."""
        return replace(super().plan(timeline, stage), evaluated=timeline.seen(stage))
