"""Differential privacy of whole sites, by a server that all of them trust."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays
from fedcl.privacy.base import Privacy
from fedcl.seeding import numpy_rng
from fedcl.settings import setting


@dataclass
class CentralDP(Privacy):
    """Clipped updates, a noisy mean (McMahan et al., ICLR 2018).

    What a site changed is scaled down to an L2 norm of at most `clip`; to the mean over n
    sites, all of equal weight, Normal(0, (noise clip / n)^2) is added, value by value.
    Counters (integers) are averaged apart: they tell of numbers of steps alone. Scores, losses
    and case names are not covered, nor is anything from a server that looks.

    Attributes:
        clip: largest L2 norm of a site's change in a round.
        noise: standard deviation of the noise, in units of clip / n.
        delta: the probability with which the guarantee may fail.
        seed: of the noise, to have a simulation twice; null for noise that nobody can know.
            With a seed, whoever knows it can take the noise away again.
    """

    hides: ClassVar[bool] = True

    clip: float = setting(1.0, above=0)
    noise: float = setting(1.0, above=0)
    delta: float = setting(1e-5, above=0, high=0.5)
    seed: int | None = setting(None, low=0)

    def join(
        self,
        rule: Aggregation,
        updates: Sequence[Arrays],
        samples: Sequence[int],
        old: Arrays,
        round_: int,
    ) -> Arrays:
        """Return the noisy mean of the clipped updates; see `Privacy.join`."""
        joined = rule.join([self.clipped(update, old) for update in updates], [1] * len(updates))
        secret = np.random.default_rng()
        rng = secret if self.seed is None else numpy_rng("privacy", self.seed, round_)
        scale = self.noise * self.clip / len(updates)
        return {
            key: (value + rng.normal(0.0, scale, value.shape)).astype(value.dtype)
            if value.dtype.kind == "f"
            else value
            for key, value in joined.items()
        }

    def clipped(self, update: Arrays, old: Arrays) -> Arrays:
        """Return `update`, no further than `clip` away from `old`."""
        real = [key for key, value in update.items() if value.dtype.kind == "f"]
        steps = {key: update[key].astype(np.float64) - old[key] for key in real}
        norm = math.sqrt(math.fsum(float(np.square(step).sum()) for step in steps.values()))
        share = min(1.0, self.clip / norm) if norm else 1.0
        kept = {k: (old[k] + share * step).astype(old[k].dtype) for k, step in steps.items()}
        return {**update, **kept}

    def spent(self, rounds: Mapping[str, int]) -> dict[str, Any]:
        """Return delta and, of every site, epsilon after its rounds."""
        return {
            "delta": self.delta,
            "epsilon": {site: epsilon(self.noise, r, self.delta) for site, r in rounds.items()},
        }


def epsilon(noise: float, rounds: int, delta: float) -> float:
    """Return the least epsilon of so many Gaussian mechanisms, without sampling.

    delta(e) = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu) with mu = sqrt(rounds) / noise
    (Balle & Wang, ICML 2018; Dong et al., JRSS B 2022, for their composition).
    """
    if rounds == 0:
        return 0.0
    mu = math.sqrt(rounds) / noise

    def excess(e: float) -> float:
        lost = math.exp(e + log_ndtr(-mu / 2 - e / mu))
        return float(ndtr(mu / 2 - e / mu) - lost - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))
