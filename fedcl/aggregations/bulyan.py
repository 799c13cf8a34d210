"""Krum's choice, then the mean of what lies near the median, weight by weight."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.serverapp.strategy import Bulyan as FlowerBulyan

from fedcl.aggregations.base import Aggregation, through_flower
from fedcl.arrays import Arrays
from fedcl.settings import setting


@dataclass
class Bulyan(Aggregation):
    """Bulyan (El Mhamdi et al., ICML 2018).

    Attributes:
        malicious: how many sites may send anything; 4 malicious + 3 sites are needed.
    """

    malicious: int = setting(0, low=0)

    @property
    def least(self) -> int:
        """See `Aggregation.least`."""
        return 4 * self.malicious + 3

    def join(self, updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
        """Return Bulyan's mean."""
        return through_flower(FlowerBulyan(num_malicious_nodes=self.malicious), updates, samples)
