"""Federated averaging with Adam on the server."""

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from fedcl.aggregations.fedavg import FedAvg
from fedcl.arrays import Arrays
from fedcl.settings import setting


@dataclass
class FedAdam(FedAvg):
    """FedAdam (Reddi et al., ICLR 2021, algorithm 2).

    m <- beta_1 m + (1 - beta_1) d; v <- beta_2 v + (1 - beta_2) d^2;
    w <- w + lr m / (sqrt(v) + tau), without bias correction, as there: m starts at 0 and v
    at tau^2. d is the step that the mean takes; m and v start anew in every stage.

    Attributes:
        lr: the server's learning rate.
        beta_1, beta_2: shares of the old moments kept.
        tau: adaptivity; larger is closer to plain averaging.
    """

    lr: float = setting(0.01, above=0)
    beta_1: float = setting(0.9, low=0, high=0.999)
    beta_2: float = setting(0.99, low=0, high=0.9999)
    tau: float = setting(0.001, above=0)

    def move(
        self, old: Arrays, joined: Arrays, parameters: Container[str], momentum: Arrays
    ) -> tuple[Arrays, Arrays]:
        """See `Aggregation.move`."""
        moved, carried = dict(joined), Arrays()
        for key in joined:
            if key in parameters:
                step = joined[key] - old[key]
                first = momentum.get(f"m/{key}", np.zeros_like(step))
                second = momentum.get(f"v/{key}", np.full_like(step, self.tau**2))
                first = self.beta_1 * first + (1 - self.beta_1) * step
                second = self.beta_2 * second + (1 - self.beta_2) * step**2
                carried |= {f"m/{key}": first, f"v/{key}": second}
                step = self.lr * first / (np.sqrt(second) + self.tau)
                moved[key] = (old[key] + step).astype(old[key].dtype)
        return moved, carried
