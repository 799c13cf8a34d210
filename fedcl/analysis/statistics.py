"""What runs say about methods: means, intervals, paired tests. Pure functions.

A score is that of a test case after the last stage. Runs are repetitions over seeds and
orders of arrival; a seed's cases are the same patients in every order, so their scores are
averaged over orders first, and a case is one observation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy.stats import t as student
from scipy.stats import wilcoxon
from statsmodels.stats.multitest import multipletests

from fedcl.analysis.runs import Group, Run, shared

FIGURES = (
    "avg",
    "ravg",
    "bwt",
    "rbwt",
    "forgetting",
    "fwt",
    "plasticity",
    "worst_site",
    "std_site",
)
"""The figures of a run that are averaged: those of `fedcl.server.metrics.summary`, and RAVG."""
LEVEL = 0.95

Difference = tuple[float, float, float]
"""A mean difference, and the ends of its 95 % interval over seeds."""
Cases = dict[tuple[int, str, str], float]
"""Seed, site and case: the score, averaged over orders."""


@dataclass
class Line:
    """One method in numbers.

    Attributes:
        name: of the method.
        runs, seeds, orders: how many there are.
        mean, std: of every figure; the mean over seeds of the means over their orders, and the
            sample standard deviation over runs, None for one run. A figure that a run does not
            define is None.
        interval: 95 % interval of AVG over seeds; None for one seed.
        spread: of AVG and of BWT, the range over orders of arrival: of the means over the seeds
            that were run in every order; None where there are no such seeds.
        closed: the share of the distance in AVG from `finetune` to `joint` that it closes, with
            its interval (`share`), over the seeds and orders that all three were run with. None
            where the interval of that distance holds 0 or cannot be given: a share of nothing
            says nothing.
        bytes, stored, seconds: mean over runs of the bytes sent in all, training slices
            that hospitals keep, and the sites' seconds of training.
        difference: its AVG less the reference's, and the interval of that, as for AVG; over
            the seeds and orders they share.
        bwt_difference: likewise of BWT; None where a shared run has none.
        p: of the paired test over cases against the reference, Holm-corrected. It takes the
            trained models as given: what another seed would do is in the interval.
    """

    name: str
    runs: int
    seeds: int
    orders: int
    mean: dict[str, float | None] = field(default_factory=dict)
    std: dict[str, float | None] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    spread: dict[str, float | None] = field(default_factory=dict)
    closed: Difference | None = None
    bytes: float = 0.0
    stored: float = 0.0
    seconds: float = 0.0
    difference: Difference | None = None
    bwt_difference: Difference | None = None
    p: float | None = None

    @property
    def words(self) -> str:
        """What it means where only one of p and the interval of the difference tells them apart."""
        if self.p is None or self.difference is None:
            return ""
        value, low, high = self.difference
        better, known = "better" if value > 0 else "worse", self.p < 1 - LEVEL
        if known == (not low <= 0 <= high):
            return ""
        if known:
            return (
                f"the models trained here are {better} on these test cases (p), but models trained "
                "with other seeds may not be (the interval holds 0)"
            )
        return (
            f"the mean over sites is {better} (the interval does not hold 0), but not the typical "
            "test case (p): the difference is at some sites or in some cases alone"
        )


def table(groups: Sequence[Group], reference: str) -> list[Line]:
    """Return one line per method, best AVG first, with tests against `reference`."""
    by_name = {group.name: group for group in groups}
    joint = by_name["joint"].runs if "joint" in by_name else []
    lines = [_line(group, joint) for group in groups]
    if gap(groups) is not None:
        for line in lines:
            line.closed = share(by_name["finetune"], by_name[line.name], by_name["joint"])
    _test(lines, by_name, reference)
    return sorted(lines, key=lambda line: -(line.mean["avg"] or 0.0))


def joint_of(run: Run, joint: Sequence[Run]) -> Run | None:
    """Return the joint run to set beside a run; None where there is none.

    It has the same data and seed, and the same order of arrival, or all sites in one stage, which
    is no order.
    """
    data = run.results.data_sha256
    own = [one for one in joint if one.results.data_sha256 == data]
    like = [one for one in own if one.block == run.block]
    like += [
        one
        for one in own
        if one.results.seed == run.results.seed and len(one.results.arrivals) == 1
    ]
    return like[0] if like else None


def ravg(run: Run, joint: Run) -> float | None:
    """Return RAVG: the mean over sites of R[T][s] / J[s], J the joint run's last row.

    A site on which joint training scores 0 has no ratio and is left out. None where a score of
    either is missing: a mean over fewer sites would look like one over all.
    """
    best = dict(zip(joint.results.sites, joint.results.matrix[-1], strict=True))
    pairs = [
        (value, best.get(site))
        for site, value in zip(run.results.sites, run.results.matrix[-1], strict=True)
    ]
    if any(value is None or other is None for value, other in pairs):
        return None
    ratios = [value / other for value, other in pairs if value is not None and other]
    return fmean(ratios) if ratios else None


def cases(runs: Sequence[Run]) -> Cases:
    """Return the score of every case after the last stage."""
    scores: dict[tuple[int, str, str], list[float]] = {}
    for run in runs:
        for site, members in run.results.cases.items():
            for case, values in members.items():
                if values[-1] is not None:
                    scores.setdefault((run.results.seed, site, case), []).append(values[-1])
    return {key: fmean(values) for key, values in scores.items()}


def paired(one: Group, other: Group) -> dict[tuple[int, str, str], tuple[float, float]]:
    """Return both scores of every case that two methods share.

    Only seeds and orders that both were run with, on the same data, count.
    """
    common = shared(one, other)
    a, b = (cases([run for run in g.runs if run.block in common]) for g in (one, other))
    return {key: (a[key], b[key]) for key in sorted(a.keys() & b.keys())}


def patients(
    pairs: Mapping[tuple[int, str, str], tuple[float, float]], runs: Sequence[Run]
) -> tuple[np.ndarray, np.ndarray]:
    """Return one pair of scores per patient.

    Where the seed does not make the data (a folder of files, or `scenario.seed` held), the
    cases of one name are one patient in every seed, and their scores are averaged. A scenario's
    seed of null is the run's.
    """
    held = {run.results.seed: run.config.get("scenario.seed", "files") for run in runs}
    worlds = {seed: seed if world is None else world for seed, world in held.items()}
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for (seed, site, case), pair in pairs.items():
        found.setdefault((str(worlds.get(seed)), site, case), []).append(pair)
    means = np.array([np.mean(values, axis=0) for values in found.values()])
    return means[:, 0], means[:, 1]


def signed_rank(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where all pairs tie."""
    return float(wilcoxon(a, b).pvalue) if np.any(a != b) else 1.0


def interval(scores: Mapping[tuple[int, str, str], float]) -> tuple[float, float]:
    """Return the 95 % interval of AVG over seeds: m ± t s / sqrt(n), at least two seeds.

    m and s are mean and standard deviation of the n seeds' averages, t the quantile of
    Student's distribution with n - 1 degrees of freedom: 12.7 for two seeds, 4.3 for three.

    Args:
        scores: by seed, site and case.
    """
    return _around(_averages(scores))[1:]


def _around(values: Sequence[float]) -> Difference:
    """Return the mean of every seed's value, with its interval; see `interval`."""
    mean, reach = fmean(values), float(student.ppf((1 + LEVEL) / 2, len(values) - 1))
    half = reach * stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def average(scores: Mapping[tuple[int, str, str], float]) -> float:
    """Return AVG: the mean over cases within a site, then over sites, then over seeds."""
    return fmean(_averages(scores))


def _averages(scores: Mapping[tuple[int, str, str], float]) -> list[float]:
    """Return every seed's AVG."""
    parts: dict[int, dict[str, list[float]]] = {}
    for (seed, site, _), value in sorted(scores.items()):
        parts.setdefault(seed, {}).setdefault(site, []).append(value)
    return [fmean(map(fmean, sites.values())) for sites in parts.values()]


def _line(group: Group, joint: Sequence[Run]) -> Line:
    runs = group.runs
    line = Line(
        group.name,
        len(runs),
        len({seed for seed, _ in group.blocks}),
        len({order for _, order in group.blocks}),
    )
    for figure in FIGURES:
        values = (
            [ravg(run, one) if (one := joint_of(run, joint)) else None for run in runs]
            if figure == "ravg"
            else [run.results.metrics.get(figure) for run in runs]
        )
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)  # a mean over fewer runs would look like one over all
        line.mean[figure] = by_seed(runs, known) if whole else None
        line.std[figure] = stdev(known) if whole and len(known) > 1 else None
    for figure in ("avg", "bwt"):
        line.spread[figure] = _spread(runs, figure)
    if line.seeds > 1:
        line.interval = interval(cases(runs))
    costs = [run.results for run in runs]
    line.bytes = by_seed(runs, [one.bytes["down"] + one.bytes["up"] for one in costs])
    line.stored = by_seed(runs, [sum(one.stored.values()) for one in costs])
    line.seconds = by_seed(runs, [one.seconds["train"] for one in costs])
    return line


def by_seed(runs: Sequence[Run], values: Sequence[float]) -> float:
    """Return the mean over seeds of the means over their orders, as intervals are around it."""
    seeds: dict[int, list[float]] = {}
    for run, value in zip(runs, values, strict=True):
        seeds.setdefault(run.results.seed, []).append(value)
    return fmean(map(fmean, seeds.values()))


def _spread(runs: Sequence[Run], figure: str) -> float | None:
    """Return the range of a figure's mean over orders; see `Line.spread`."""
    by_order: dict[str, dict[int, Any]] = {}
    for run in runs:
        seed, order = run.block
        by_order.setdefault(order, {})[seed] = run.results.metrics[figure]
    common = set.intersection(*(set(found) for found in by_order.values()))
    if len(by_order) < 2 or not common:
        return None
    values = [[found[seed] for seed in common] for found in by_order.values()]
    if any(value is None for found in values for value in found):
        return None
    means = [fmean(found) for found in values]
    return max(means) - min(means)


def apart(figure: str, one: Group, other: Group) -> Difference | None:
    """Return how far a figure of one method is above another's, and its interval over seeds.

    Over the seeds and orders they share, averaged over orders first. None for fewer than two
    seeds, and where a run does not define the figure.
    """
    values = _seeds(figure, one, other)
    return _around([a - b for a, b in values]) if len(values) > 1 else None


def _seeds(figure: str, *groups: Group) -> list[list[float]]:
    """Return a figure of every method, seed by seed: means over the orders they all share.

    Empty where a run does not define it.
    """
    common = shared(*groups)
    found: list[list[float]] = []
    for seed in sorted({seed for seed, _ in common}):
        blocks = {block for block in common if block[0] == seed}
        values = [
            [run.results.metrics.get(figure) for run in one.runs if run.block in blocks]
            for one in groups
        ]
        known = [[value for value in one if value is not None] for one in values]
        if known != values:
            return []
        found.append([fmean(one) for one in known])
    return found


def gap(groups: Sequence[Group]) -> Difference | None:
    """Return how far joint training is above fine-tuning in AVG, and the 95 % interval over seeds.

    None where one of the two, or a second seed that both have, is missing.
    """
    by_name = {group.name: group for group in groups}
    if "finetune" not in by_name or "joint" not in by_name:
        return None
    return apart("avg", by_name["joint"], by_name["finetune"])


def share(low: Group, own: Group, high: Group) -> Difference | None:
    """Return which share of the way in AVG from `low` to `high` a method goes, with its interval.

    The ratio of two means over seeds, with Fieller's 95 % interval for such (1954), that is all
    shares r whose own - low - r (high - low) is not told apart from 0 by Student's t. None for
    fewer than two seeds, and where `high` is not above `low`: the interval has no ends then.
    """
    seeds = _seeds("avg", low, own, high)
    if len(seeds) < 2:
        return None
    gained, way = (np.array([one[k] - one[0] for one in seeds]) for k in (1, 2))
    (a, ab), (_, b) = np.cov(gained, way) * student.ppf((1 + LEVEL) / 2, len(seeds) - 1) ** 2
    a, ab, b = (value / len(seeds) for value in (a, ab, b))
    up, down = float(gained.mean()), float(way.mean())
    scale = down**2 - b
    if down <= 0 or scale <= 0:
        return None
    middle = up * down - ab
    reach = math.sqrt(max(0.0, middle**2 - scale * (up**2 - a)))
    return up / down, (middle - reach) / scale, (middle + reach) / scale


def _test(lines: Sequence[Line], groups: Mapping[str, Group], reference: str) -> None:
    tested = []
    for line in lines:
        if line.name == reference:
            continue
        pairs = paired(groups[line.name], groups[reference])
        if len({seed for seed, _, _ in pairs}) < 2:
            continue  # one seed says nothing about another
        line.difference = apart("avg", groups[line.name], groups[reference])
        line.bwt_difference = apart("bwt", groups[line.name], groups[reference])
        line.p = signed_rank(*patients(pairs, groups[reference].runs))
        tested.append(line)
    if tested:
        corrected = multipletests([line.p for line in tested], method="holm")[1]
        for line, p in zip(tested, corrected, strict=True):
            line.p = float(p)
