"""Federated averaging."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays, weighted_mean


@dataclass
class FedAvg(Aggregation):
    """The mean, weighted by training samples (McMahan et al., AISTATS 2017)."""

    averages: ClassVar[bool] = True

    def join(self, updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
        """Return the mean; see `weighted_mean`."""
        return weighted_mean(updates, samples)
