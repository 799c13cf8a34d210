"""The update that lies closest to the others."""

from collections.abc import Sequence
from dataclasses import dataclass

from flwr.serverapp.strategy import MultiKrum as FlowerMultiKrum

from fedcl.aggregations.base import Aggregation, through_flower
from fedcl.arrays import Arrays
from fedcl.settings import setting


@dataclass
class Krum(Aggregation):
    """Krum (Blanchard et al., NeurIPS 2017).

    Attributes:
        malicious: how many sites may send anything; 2 malicious + 3 sites are needed.
    """

    malicious: int = setting(0, low=0)

    @property
    def least(self) -> int:
        """See `Aggregation.least`."""
        return 2 * self.malicious + 3

    @property
    def chosen(self) -> int:
        """How many updates are averaged."""
        return 1

    def join(self, updates: Sequence[Arrays], samples: Sequence[int]) -> Arrays:
        """Return the mean of the updates closest to the others."""
        rule = FlowerMultiKrum(num_malicious_nodes=self.malicious, num_nodes_to_select=self.chosen)
        return through_flower(rule, updates, samples)
