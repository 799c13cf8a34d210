"""The mean of the updates that lie closest to the others."""

from dataclasses import dataclass

from fedcl.aggregations.krum import Krum
from fedcl.settings import setting


@dataclass
class MultiKrum(Krum):
    """Multi-Krum (Blanchard et al., NeurIPS 2017); malicious as for Krum.

    Attributes:
        select: how many updates are averaged.
    """

    select: int = setting(2, low=1)

    @property
    def least(self) -> int:
        """See `Aggregation.least`."""
        return max(super().least, self.select)

    @property
    def chosen(self) -> int:
        """See `Krum.chosen`."""
        return self.select
