"""Replay: earlier hospitals rehearse with a few of their slices. Keeps data."""

from dataclasses import dataclass

import torch

from fedcl.data.cases import Samples
from fedcl.learning.strategy import Strategy
from fedcl.settings import setting
from fedcl.timeline import Timeline


@dataclass
class Replay(Strategy):
    """Rehearsal (Robins, Connection Science 1995) with a bounded buffer per hospital.

    It STORES DATA: every hospital keeps some training slices, in its own state folder, and
    goes on training on them in all later stages. They never leave it, but it has to stay.
    Its share in the average is that of its buffer.

    Attributes:
        slices: how many slices a hospital keeps, drawn at random.
    """

    slices: int = setting(8, low=1)

    def cohort(self, timeline: Timeline, stage: int) -> list[str]:
        """Return all sites that have arrived."""
        return timeline.present(stage)

    def learning(self, timeline: Timeline, stage: int) -> list[str]:
        """Return those that arrive; the others rehearse."""
        return timeline.new(stage)

    def buffer(self, samples: Samples, rng: torch.Generator) -> Samples:
        """Return the slices to keep."""
        return samples[torch.randperm(len(samples), generator=rng)[: self.slices].sort().values]
