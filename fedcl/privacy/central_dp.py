"""Differential privacy of whole sites, by a server that all of them trust."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays
from fedcl.errors import ConfigError
from fedcl.learning.strategy import Strategy
from fedcl.privacy.base import Privacy
from fedcl.registry import name_of
from fedcl.seeding import Key, numpy_rng
from fedcl.settings import setting
from fedcl.timeline import Timeline


@dataclass
class CentralDP(Privacy):
    """Clipped updates, a noisy mean (McMahan et al., ICLR 2018).

    What a site changed is scaled down to an L2 norm of at most `clip`; to the mean over n
    sites, all of equal weight, Normal(0, (noise clip / n)^2) is added, value by value.
    Counters (integers) are averaged apart: they tell of numbers of steps alone. Scores, losses
    and case names are not covered, nor is anything from a server that looks.

    Two runs are neighbours if one site's data change nothing in one of them: its update is
    replaced by none, while who takes part is public ("zero-out", Ponomareva et al., JAIR 2023).
    Exchanging a site's data for any others counts twice the distance, `noise` halved.

    Attributes:
        clip: largest L2 norm of a site's change in a round.
        noise: standard deviation of the noise, in units of clip / n.
        delta: the probability with which the guarantee may fail.
        seed: of the noise, to have a simulation twice; null for noise that nobody can know.
            With a seed, whoever knows it can take the noise away again.
    """

    accounts: ClassVar[bool] = True

    clip: float = setting(1.0, low=1e-6, high=1e6)
    noise: float = setting(1.0, low=1e-3, high=1e6)
    delta: float = setting(1e-5, low=1e-15, high=0.5)
    seed: int | None = setting(None, low=0)

    def check(self, strategy: Strategy, aggregation: Aggregation, timeline: Timeline) -> None:
        """Check that nothing but a noisy mean of updates is used.

        Raises:
            ConfigError: the strategy or the aggregation looks at single updates, or there are
                none.
        """
        if strategy.requirements.every_update:
            raise ConfigError(
                f"strategy: {name_of(strategy)} reads the update of every single site, which "
                "privacy central_dp is there to prevent; choose another strategy or privacy=none"
            )
        if timeline.centralised:
            raise ConfigError(
                "timeline.centralised: a pool has no updates of single sites for privacy "
                "central_dp to protect; choose privacy=none"
            )
        if not aggregation.averages:
            raise ConfigError(
                f"aggregation: {name_of(aggregation)} chooses among single updates, so that "
                "privacy central_dp cannot say how much one site matters; take fedavg, fedavgm "
                "or fedadam"
            )

    def check_sent(self, strategy: Strategy, shared: Collection[str], reports: bool) -> None:
        """Check that sites send updates alone, of arrays that bear noise.

        Raises:
            ConfigError: they do not.
        """
        if not shared:
            raise ConfigError(
                f"strategy: {name_of(strategy)} sends no weights that privacy central_dp could "
                "protect; choose privacy=none"
            )
        if reports:
            raise ConfigError(
                f"strategy: {name_of(strategy)} has every site report more than its update, "
                "which privacy central_dp does not cover; choose another strategy or privacy=none"
            )
        if any(key.endswith("running_var") for key in shared):
            raise ConfigError(
                "model: noise from privacy central_dp can make a variance of batch normalisation "
                "negative; choose model.norm=instance or strategy=fedbn"
            )

    def weight(self, samples: int) -> int:
        """Count every site alike."""
        return 1

    def limited(self, update: Arrays, old: Arrays) -> Arrays:
        """Return `update`, no further than `clip` away from `old`; float64, not to exceed it."""
        real = [key for key, value in update.items() if value.dtype.kind == "f"]
        steps = {key: update[key].astype(np.float64) - old[key] for key in real}
        norm = math.sqrt(math.fsum(float(np.square(step).sum()) for step in steps.values()))
        share = min(1.0, self.clip / norm) if norm else 1.0
        return {**update, **{key: old[key] + share * step for key, step in steps.items()}}

    def released(self, joined: Arrays, count: int, secret: tuple[Key, ...]) -> Arrays:
        """Return the mean of the clipped updates with noise; see `Privacy.released`."""
        run, *rest = secret
        rng = numpy_rng("privacy", run if self.seed is None else self.seed, *rest)
        scale = self.noise * self.clip / count
        return {
            key: value + rng.normal(0.0, scale, value.shape) if value.dtype.kind == "f" else value
            for key, value in joined.items()
        }

    def spent(self, times: Mapping[str, int]) -> dict[str, Any]:
        """Return delta and, of every site, epsilon after its rounds."""
        spent = {r: epsilon(self.noise, r, self.delta) for r in {*times.values()}}
        return {
            "covers": "updates",
            "neighbours": "one site's update against none",
            "delta": self.delta,
            "epsilon": {site: spent[r] for site, r in times.items()},
        }


def epsilon(noise: float, times: int, delta: float) -> float:
    """Return the least epsilon of so many Gaussian mechanisms, without sampling.

    delta(e) = Phi(mu/2 - e/mu) - exp(e) Phi(-mu/2 - e/mu) with mu = sqrt(times) / noise
    (Balle & Wang, ICML 2018; Dong et al., JRSS B 2022, for their composition).
    """
    if times == 0:
        return 0.0
    mu = math.sqrt(times) / noise

    def excess(e: float) -> float:
        lost = math.exp(e + log_ndtr(-mu / 2 - e / mu))
        return float(ndtr(mu / 2 - e / mu) - lost - delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))
