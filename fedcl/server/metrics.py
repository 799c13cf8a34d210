"""What a stage-by-site matrix says about learning and forgetting. Pure functions.

R[t][s] is the score on site s after stage t (0-based, last stage T); None where it was not
evaluated. `trained[t]` are the sites that trained in stage t; e(s) is the last of them for
site s. Higher scores are better. A figure that is not defined is None, never 0: where there is
no earlier site, or where a score that it needs is missing, since a mean over fewer sites would
look like one over all.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean, pstdev

Row = Sequence[float | None]
SCORES = {"dice": "Dice", "psnr": "PSNR (dB)"}
"""How scores are written; others, of a task of one's own, by their names."""


def title_of(score: str) -> str:
    """Return how a score is written."""
    return SCORES.get(score, score)


def summary(
    matrix: Sequence[Row],
    trained: Sequence[Sequence[str]],
    sites: Sequence[str],
    initial: Row | None = None,
    arrived: Sequence[str] | None = None,
) -> dict[str, float | None]:
    """Return the figures of a whole run.

    Args:
        matrix: R, one row per finished stage, one column per site.
        trained: the sites trained in each stage.
        sites: the columns' names, in order of arrival.
        initial: scores of the untrained model, one per site.
        arrived: the sites seen so far, whether or not their training succeeded; by default
            those that trained.

    Returns:
        avg: mean of R[T][s] over the sites seen.
        bwt: backward transfer, mean of R[T][s] - R[e(s)][s] over sites trained before T
            (Lopez-Paz & Ranzato, NeurIPS 2017, with e(s) for the stage of learning).
        rbwt: the same relative to what was learned, mean of (R[T][s] - R[e(s)][s]) / R[e(s)][s]
            (Zhu et al., Medical Image Analysis 94:103112, 2024); None where one of the
            denominators is 0.
        fwt: forward transfer, mean of R[a-1][s] - initial[s] over sites first trained in
            a stage a > 0 (Lopez-Paz & Ranzato).
        forgetting: mean of max over l < T of R[l][s], minus R[T][s], over sites trained
            before T (Chaudhry et al., ECCV 2018; the maximum leaves the last row out).
        plasticity: mean of R[e(s)][s] over the sites trained.
        worst_site, std_site: least score, and population standard deviation, of R[T][s]
            over the sites seen.
    """
    last = len(matrix) - 1
    column = {site: index for index, site in enumerate(sites)}

    def score(stage: int, site: str) -> float | None:
        return matrix[stage][column[site]]

    when, there = _stages_of(trained), set(sites if arrived is None else arrived)
    learned = [site for site in sites if site in when and site in there]
    seen = learned if arrived is None else arrived
    old = [site for site in learned if when[site][0] < last]
    new = [site for site in learned if when[site][0] > 0]

    final = _all([score(last, s) for s in seen])
    forgotten = forgetting_by_site(matrix, trained, sites)
    return {
        "avg": _mean(final),
        "bwt": _mean(_all([_minus(score(last, s), score(when[s][-1], s)) for s in old])),
        "rbwt": relative_bwt(matrix, trained, sites, learned),
        "fwt": _mean(
            _all(
                [
                    _minus(score(when[s][0] - 1, s), initial[column[s]] if initial else None)
                    for s in new
                ]
            )
        ),
        "forgetting": _mean(_all([forgotten.get(s) for s in old])),
        "plasticity": _mean(_all([score(when[s][-1], s) for s in learned])),
        "worst_site": min(final) if final else None,
        "std_site": pstdev(final) if final else None,
    }


def relative_bwt(
    matrix: Sequence[Row],
    trained: Sequence[Sequence[str]],
    sites: Sequence[str],
    learned: Sequence[str] | None = None,
) -> float | None:
    """Return RBWT; see `summary`.

    Args:
        matrix: R.
        trained: the sites trained in each stage.
        sites: the columns' names.
        learned: the sites that count; by default all.
    """
    ratios: list[float | None] = []
    last = len(matrix) - 1
    when, counting = _stages_of(trained), set(sites if learned is None else learned)
    for column, site in enumerate(sites):
        stages = when.get(site)
        if not stages or stages[0] >= last or site not in counting:
            continue
        before, now = matrix[stages[-1]][column], matrix[last][column]
        ratios.append(None if now is None or not before else (now - before) / before)
    return _mean(_all(ratios))


def forgetting_by_site(
    matrix: Sequence[Row], trained: Sequence[Sequence[str]], sites: Sequence[str]
) -> dict[str, float]:
    """Return, for every site trained before the last row, its best earlier score minus now.

    Left out is a site that has no score after one of the stages since its first training.
    """
    last = len(matrix) - 1
    result, when = {}, _stages_of(trained[:last])
    for index, site in enumerate(sites):
        if site not in when:
            continue
        first = when[site][0]
        column = [row[index] for row in matrix]
        if None not in column[first:]:
            known = _known(column)
            result[site] = max(known[:-1]) - known[-1]
    return result


def _stages_of(trained: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Return the stages in which each site trained."""
    when: dict[str, list[int]] = {}
    for stage, cohort in enumerate(trained):
        for site in cohort:
            when.setdefault(site, []).append(stage)
    return when


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _all(values: Sequence[float | None]) -> list[float]:
    """Return the values; none where one is missing."""
    known = _known(values)
    return known if len(known) == len(values) else []


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
