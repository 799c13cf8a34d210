"""The mean of each weight without its extremes."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.serverapp.strategy import FedTrimmedAvg

from fedcl.aggregations.base import Aggregation, through_flower
from fedcl.arrays import Arrays
from fedcl.settings import setting


@dataclass
class TrimmedMean(Aggregation):
    """Trimmed mean (Yin et al., ICML 2018), unweighted.

    Attributes:
        beta: share of the sites left out at either end; nothing where it is below one site.
    """

    beta: float = setting(0.2, low=0, high=0.49)

    def join(self, updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
        """Return the trimmed means."""
        return through_flower(FedTrimmedAvg(beta=self.beta), updates, samples)
