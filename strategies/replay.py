"""Replay: earlier hospitals rehearse with a few of their slices. Keeps data."""

from dataclasses import dataclass, replace

import torch

from fedcl.data.samples import Samples, Stacked
from fedcl.learning.strategy import Plan, Strategy
from fedcl.settings import setting
from fedcl.timeline import Timeline


@dataclass
class Replay(Strategy):
    """Rehearsal (Robins, Connection Science 1995) with a bounded buffer per hospital.

    It STORES DATA: every hospital keeps some training slices, in its own state folder, and
    goes on training on them in all later stages. They never leave it, but it has to stay.
    Its share in the average is that of its buffer.

    Attributes:
        slices: how many training samples a hospital keeps, drawn at random: slices, in 3-D volumes
            or patches.
    """

    slices: int = setting(8, low=1)

    def plan(self, timeline: Timeline, stage: int) -> Plan:
        """Let all sites train that are there; those that are not new rehearse."""
        there = timeline.present(stage)
        earlier = frozenset(there) - frozenset(timeline.new(stage))
        return replace(super().plan(timeline, stage), cohort=there, rehearsing=earlier)

    def buffer(self, samples: Samples, rng: torch.Generator) -> Stacked:
        """Return the slices to keep."""
        return samples[torch.randperm(len(samples), generator=rng)[: self.slices].sort().values]
