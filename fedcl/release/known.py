"""What was known of a run after one of its stages, and of nothing that came later."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

from fedcl.errors import ConfigError
from fedcl.server.metrics import forgetting_by_site, summary
from fedcl.server.results import Cases, Figures, Matrix, Results

LEVEL = 0.95


@dataclass(frozen=True)
class Mark:
    """How one hospital's test cases are scored.

    Attributes:
        mean: None where it was not evaluated.
        interval: of the mean, at 95 %; None of fewer than two cases.
        cases: how many were scored.
        trained: the stages in which it has trained, from 1.
        best: the best mean after an earlier stage.
        forgotten: that, less the mean; None where it had not trained before this stage, or a score
            is missing.
    """

    mean: float | None
    interval: tuple[float, float] | None
    cases: int
    trained: Sequence[int]
    best: float | None
    forgotten: float | None


@dataclass(frozen=True)
class Known:
    """What was known of an architecture, or of the run, after a stage.

    Attributes:
        stage: counted from 1.
        sites: those that had arrived, in order of arrival.
        marks: of each of them.
        figures: AVG, BWT and the others; see `fedcl.server.metrics.summary`.
        others: of each of them, the means of the scores that runs are not judged by.
    """

    stage: int
    sites: Sequence[str]
    marks: Mapping[str, Mark]
    figures: Figures
    others: Mapping[str, Mapping[str, float | None]]


def stage_of(results: Results, stage: int | None) -> int:
    """Return which stage is meant, counted from 1: the last one finished, or the one given.

    Raises:
        ConfigError: it was not finished.
    """
    there = len(results.matrix)
    if not there:
        raise ConfigError("the run has finished no stage; there is no model to tell of")
    if stage is not None and not 1 <= stage <= there:
        raise ConfigError(f"--stage: give 1 to {there}, the stages that were finished, got {stage}")
    return stage or there


def arrived(results: Results, stage: int) -> list[str]:
    """Return the sites that had arrived by a stage, in order of arrival."""
    there = {site for cohort in results.arrivals[:stage] for site in cohort}
    return [site for site in results.sites if site in there or not results.arrivals]


def known(results: Results, stage: int, model: str | None = None) -> Known:
    """Return what was known after a stage.

    Args:
        results: of the run.
        stage: counted from 1.
        model: of this architecture at all sites; None of the run, every site by its own.
    """
    one = results if model is None else results.architectures[model]
    matrix, secondary = one.matrix or [], one.secondary
    own = results.sites if model is None else results.architectures[model].sites
    trained = [[site for site in stage_ if site in own] for stage_ in results.stages[:stage]]
    rows, sites = matrix[:stage], arrived(results, stage)
    lost = forgetting_by_site(rows, trained, results.sites)
    marks = {}
    for site in sites:
        column = results.sites.index(site)
        when = [number for number, cohort in enumerate(trained, 1) if site in cohort]
        earlier = [row[column] for row in rows[:-1]]
        found = _scored(one.cases, site, stage)
        marks[site] = Mark(
            mean=rows[-1][column],
            interval=_within(interval(found), results.score),
            cases=len(found),
            trained=when,
            best=max((value for value in earlier if value is not None), default=None),
            forgotten=lost.get(site),
        )
    figures = one.metrics
    if stage < len(matrix):
        judged = [site for site in sites if _judged(results, site)]
        figures = summary(rows, trained, results.sites, None, judged)
    others = {
        name: {site: score.matrix[stage - 1][results.sites.index(site)] for site in sites}
        for name, score in secondary.items()
    }
    return Known(stage, sites, marks, figures, others)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over cases: m ± t s / sqrt(n); None of fewer than two.

    s is the sample standard deviation, t the quantile of Student's distribution with n - 1
    degrees of freedom. It says what other cases of the same hospital might do.
    """
    if len(values) < 2:
        return None
    reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1))
    half = reach * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def _within(found: tuple[float, float] | None, score: str) -> tuple[float, float] | None:
    """Return an interval without what a score cannot be."""
    if found is None or score != "dice":
        return found
    return max(found[0], 0.0), min(found[1], 1.0)


def _scored(cases: Cases, site: str, stage: int) -> list[float]:
    """Return the scores of a site's cases after a stage."""
    scores = (values[stage - 1] for values in cases.get(site, {}).values())
    return [score for score in scores if score is not None]


def _judged(results: Results, site: str) -> bool:
    """Return whether a site can have the score that runs are judged by, as far as is known.

    Of a field, a site that has masks alone has none, and AVG is not over it.
    """
    column = results.sites.index(site)

    def any_of(matrix: Matrix) -> bool:
        return any(row[column] is not None for row in matrix)

    elsewhere = any(any_of(score.matrix) for score in results.secondary.values())
    return any_of(results.matrix) or not elsewhere
