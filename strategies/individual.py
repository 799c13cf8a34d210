"""Individual training: every hospital keeps a model of its own."""

from dataclasses import dataclass

from torch import nn

from fedcl.learning.strategy import Strategy
from fedcl.timeline import Timeline


@dataclass
class Individual(Strategy):
    """No federation: all weights stay at the hospital and only scores leave it.

    A site is evaluated with its own model, so only once it has arrived.
    """

    def local(self, network: nn.Module) -> set[str]:
        """Return every array."""
        return set(network.state_dict())

    def evaluated(self, timeline: Timeline, stage: int) -> list[str]:
        """Return the sites that have arrived and so have a model."""
        return timeline.seen(stage) if stage >= 0 else []
