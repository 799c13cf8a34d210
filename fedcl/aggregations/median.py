"""The median of each weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.serverapp.strategy import FedMedian

from fedcl.aggregations.base import Aggregation, through_flower
from fedcl.arrays import Arrays


@dataclass
class Median(Aggregation):
    """FedMedian (Yin et al., ICML 2018), unweighted; of two sites it is their mean."""

    def join(self, updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
        """Return the medians."""
        return through_flower(FedMedian(), updates, samples)
