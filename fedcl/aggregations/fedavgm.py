"""Federated averaging with momentum on the server."""

from collections.abc import Container
from dataclasses import dataclass

from fedcl.aggregations.fedavg import FedAvg
from fedcl.arrays import Arrays
from fedcl.settings import setting


@dataclass
class FedAvgM(FedAvg):
    """FedAvgM (Hsu et al., arXiv 1909.06335): v <- beta v + d; w <- w + lr v.

    d is the step that the mean takes from the old weights. v starts anew in every stage:
    the direction of hospitals that have gone is not that of those that come.

    Attributes:
        lr: the server's learning rate.
        beta: share of the old direction kept.
    """

    lr: float = setting(1.0, above=0)
    beta: float = setting(0.5, low=0, high=0.999)

    def move(
        self, old: Arrays, joined: Arrays, parameters: Container[str], momentum: Arrays
    ) -> tuple[Arrays, Arrays]:
        """See `Aggregation.move`."""
        moved, carried = dict(joined), Arrays()
        for key in joined:
            if key in parameters:
                step = joined[key] - old[key]
                carried[key] = self.beta * momentum[key] + step if momentum else step
                moved[key] = (old[key] + self.lr * carried[key]).astype(old[key].dtype)
        return moved, carried
