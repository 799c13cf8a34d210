"""The release gate: whether a stage's model may take the place of the one in use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.server.architecture import Architecture
from fedcl.server.exchange import Exchange, Failure
from fedcl.server.results import Judged, Verdict
from fedcl.server.state import State
from fedcl.wire import records
from fedcl.wire.answers import Scored

FEWEST = 2
"""Cases that a paired test needs."""
EXACT = 1e-12
"""By how much numbers differ that are equal but for rounding."""


@dataclass(frozen=True)
class Gate:
    """Compares models hospital by hospital.

    Attributes:
        config, exchange, state: of the run.
        architectures: by name, with room for the sites that have arrived.
    """

    config: Config
    exchange: Exchange
    state: State
    architectures: Mapping[str, Architecture]

    def judge(self, released: arrays.Arrays, number: int) -> Verdict:
        """Compare the state's weights with those in use, at the hospitals that these serve.

        Args:
            released: the weights in use.
            number: of the stage that they are of, counted from 1; 0 for those the run began with.
        """
        stage = self.state.stage
        there = self.exchange.roster.connected()
        earlier = self._served
        sites = [site for site in earlier if site in there]
        old, new = self._scores(sites, released), self._scores(sites, self.state.weights)
        pairs = {site: (old[site], new[site]) for site in sites}
        judged = compared(pairs, self.config.release.margin, self.config.release.alpha)
        judged = {site: judged.get(site, Judged(note="it is not there")) for site in earlier}
        worse = {site: one for site, one in judged.items() if one.worse}
        tested = any(one.p is not None for one in judged.values())
        reason = "; ".join(_in_words(site, one) for site, one in worse.items())
        if not tested:
            notes = (f"{site}: {one.note}" for site, one in judged.items())
            reason = f"no hospital could judge it ({'; '.join(notes)})"
        passed = tested and not worse
        return Verdict(passed, stage + 1 if passed else number, number, reason, judged)

    @property
    def _served(self) -> list[str]:
        """The hospitals that have a say: that came, or were learned from, in a stage released.

        One whose only stage was refused has been promised nothing, and its labels may be wrong.
        Where no stage was released yet, the model that the run began with is everybody's.
        """
        timeline, stage = self.config.timeline, self.state.stage
        passed = [t for t, one in enumerate(self.state.verdicts) if one.released]
        if not passed:
            return timeline.seen(stage)
        served = {s for t in passed for s in (*timeline.stages[t], *self.state.trained[t])}
        return [site for site in timeline.seen(stage - 1) if site in served]

    def _scores(self, sites: Sequence[str], weights: arrays.Arrays) -> dict[str, list[float] | str]:
        """Return the validation scores of weights case by case, or why there are none, by site."""
        job, stage = self.config.job, self.state.stage
        sent = {
            name: records.to_record(one.shared(weights))
            for name, one in self.architectures.items()
            if one.sites
        }
        models = {site: job.roles[site].model for site in sites}
        requests = self.exchange.to_score(models, sent, stage, "val")
        found: dict[str, list[float] | str] = {}
        for site, answer in self.exchange.ask(Scored, requests).items():
            score = job.task.scored(site)[0]
            if isinstance(answer, Failure):
                self.state.ledger.fail(site, stage, self.state.round, "judgement", answer.reason)
                found[site] = answer.reason.partition("\n")[0]
            else:
                found[site] = answer.scores[score]
        return found


def compared(
    pairs: Mapping[str, tuple[list[float] | str, list[float] | str]], margin: float, alpha: float
) -> dict[str, Judged]:
    """Return what each hospital's scores say of a candidate.

    It is worse at a hospital where the mean of the cases' losses is significantly more than the
    margin: Student's one-sided paired t-test, at the level `alpha` over all hospitals (Holm 1979).

    Args:
        pairs: per hospital the scores of the model in use and of the candidate, case by case in one
            order, or why there are none.
        margin: loss that is put up with, in the unit of the score.
        alpha: chance of a refusal though no hospital loses more than the margin.
    """
    judged, p = dict[str, Judged](), dict[str, float]()
    for site, (old, new) in pairs.items():
        if isinstance(old, str) or isinstance(new, str):
            judged[site] = Judged(note=old if isinstance(old, str) else str(new))
        elif len(old) != len(new):
            judged[site] = Judged(note=f"it scored {len(old)} and {len(new)} cases")
        else:
            few = len(old) < FEWEST
            note = f"{len(old)} validation case, a test needs {FEWEST}" if few else ""
            judged[site] = Judged(len(old), fmean(old), fmean(new), note=note)
            if not few:
                p[site] = _loss(old, new, margin)
    for site, corrected in _holm(p).items():
        judged[site] = replace(judged[site], p=round(corrected, 6), worse=corrected < alpha)
    return judged


def _loss(old: Sequence[float], new: Sequence[float], margin: float) -> float:
    """Return the p value of the test that cases lose no more than a margin in the mean."""
    from scipy.stats import ttest_1samp  # takes half a second

    lost = [a - b for a, b in zip(old, new, strict=True)]
    if max(lost) - min(lost) < EXACT:  # no spread to measure the mean by
        return float(fmean(lost) <= margin + EXACT)
    return float(ttest_1samp(lost, margin, alternative="greater").pvalue)


def _holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p values corrected for their number."""
    if not p:
        return {}
    from statsmodels.stats.multitest import multipletests  # takes a second

    return dict(zip(p, map(float, multipletests([*p.values()], method="holm")[1]), strict=True))


def _in_words(site: str, one: Judged) -> str:
    assert one.released is not None and one.candidate is not None
    return (
        f"{site} would fall from {one.released:.3f} to {one.candidate:.3f} "
        f"({one.cases} validation cases, p {one.p:.2g})"
    )
