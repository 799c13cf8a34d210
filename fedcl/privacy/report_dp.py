"""Differential privacy of single patients, in what hospitals report besides weights."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedcl.aggregations.base import Aggregation
from fedcl.arrays import Arrays
from fedcl.errors import ConfigError, RunError
from fedcl.learning.strategy import Form, Strategy
from fedcl.privacy.base import Privacy
from fedcl.privacy.central_dp import epsilon
from fedcl.registry import name_of
from fedcl.seeding import Key, numpy_rng
from fedcl.settings import setting
from fedcl.timeline import Timeline


@dataclass
class ReportDP(Privacy):
    """Reports that are means over training cases, clipped, with noise that the hospital adds.

    A hospital makes the strategy's report of each of its n training cases (patients) alone. Every
    array of it is scaled down to a root mean square of at most `clip`; to the mean over the cases
    Normal(0, (noise clip sqrt(k d) / n)^2) is added, for an array of d values out of k arrays,
    value by value: the Gaussian mechanism with multiplier `noise` on the whole report. What it
    then is outside of the strategy's bounds is set to the nearer one. It is made once per stage
    and kept: who asks again is told the same.

    Two hospitals are neighbours if one case's part of the report is replaced by none (zero), while
    n is public. Exchanging a case for any other counts twice the distance, `noise` halved. Covered
    are reports alone, given the weights that they are made with: weights, losses, scores and names
    bear no noise.

    Attributes:
        clip: largest root mean square of an array of one case's report.
        noise: standard deviation of the noise, in units of what one case can change.
        delta: the probability with which the guarantee may fail.
        seed: of the noise, to have a simulation twice; null for noise that nobody can know.
            With a seed, whoever knows it can take the noise away again; real hospitals refuse it.
    """

    at_hospitals: ClassVar[bool] = True

    clip: float = setting(1.0, low=1e-12, high=1e6)
    noise: float = setting(1.0, low=1e-3, high=1e6)
    delta: float = setting(1e-5, low=1e-15, high=0.5)
    seed: int | None = setting(None, low=0)

    def check(self, strategy: Strategy, aggregation: Aggregation, timeline: Timeline) -> None:
        """Check that single hospitals report something.

        Raises:
            ConfigError: they do not.
        """
        if type(strategy).reporting is Strategy.reporting:
            raise ConfigError(_nothing(strategy))
        if timeline.centralised:
            raise ConfigError(
                "timeline.centralised: a pool is no hospital that could add noise to a report as "
                "privacy report_dp has it; choose privacy=none"
            )

    def check_sent(self, strategy: Strategy, shared: Collection[str], reports: bool) -> None:
        """Raise `ConfigError` where with these settings nothing is reported."""
        if not reports:
            raise ConfigError(_nothing(strategy))

    def told(
        self, parts: Iterable[Arrays], forms: Mapping[str, Form], secret: tuple[Key, ...]
    ) -> Arrays:
        """Return the mean of the clipped parts with noise; see `Privacy.told`."""
        sums = {key: np.zeros(form.shape) for key, form in forms.items()}
        count = 0
        for part in parts:
            count += 1
            for key, total in sums.items():
                total += clipped(key, part[key], self.clip)
        own, *rest = secret
        rng = numpy_rng("report", own if self.seed is None else self.seed, *rest)
        answer = {}
        for key, total in sums.items():
            scale = self.noise * self.clip * math.sqrt(len(sums) * total.size) / count
            noisy = total / count + rng.normal(0.0, scale, total.shape)
            answer[key] = noisy.clip(forms[key].low, forms[key].high).astype(np.float32)
        return answer

    def spent(self, times: Mapping[str, int]) -> dict[str, Any]:
        """Return delta and, of every site, what its reports have cost each of its patients."""
        spent = {count: epsilon(self.noise, count, self.delta) for count in {*times.values()}}
        return {
            "covers": "reports",
            "neighbours": "one case's part of a site's reports against none; weights and scores "
            "are not covered",
            "delta": self.delta,
            "epsilon": {site: spent[count] for site, count in times.items()},
        }


def clipped(key: str, value: np.ndarray, clip: float) -> np.ndarray:
    """Return an array in float64, scaled down to a root mean square of at most `clip`.

    Raises:
        RunError: it has none; names the array by its `key`.
    """
    exact = value.astype(np.float64)
    most = math.sqrt(np.square(exact).mean()) if exact.size else 0.0
    if not math.isfinite(most):
        raise RunError(f"{key}: of one case alone it is not finite, and so cannot be clipped")
    return exact * min(1.0, clip / most) if most else exact


def _nothing(strategy: Strategy) -> str:
    return (
        f"privacy: report_dp is for what hospitals report besides weights, and strategy "
        f"{name_of(strategy)} has them report nothing; choose privacy=none or central_dp"
    )
