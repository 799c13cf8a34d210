"""The end of a stage: every site is tested, and the strategy remembers."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.errors import RunError, some_of
from fedcl.learning import bank
from fedcl.learning.strategy import Form, StageSummary
from fedcl.seeding import torch_rng
from fedcl.server.architecture import Architecture
from fedcl.server.exchange import Exchange, Failure
from fedcl.server.outcome import spent
from fedcl.server.rounds import Stage
from fedcl.server.state import Scores, State
from fedcl.wire import records
from fedcl.wire.answers import Report, Scored
from fedcl.wire.requests import ReportRequest

log = logging.getLogger("fedcl")


@dataclass(frozen=True)
class Closing:
    """What hospitals are asked after a stage.

    Attributes:
        config, exchange, state: of the run.
        architectures: by name, with room for the sites that have arrived.
        shape: of a sample.
    """

    config: Config
    exchange: Exchange
    state: State
    architectures: Mapping[str, Architecture]
    shape: list[int]

    def test(self, stage: int) -> Scores:
        """Score every site's own architecture on its test cases after `stage`.

        Raises:
            RunError: a simulated site could not be tested. A real one may be off; it has no score.
        """
        timeline, job = self.config.timeline, self.config.job
        sites = self._tested(stage)
        if not job.task.foresight:
            seen = set(timeline.seen(stage)) if stage >= 0 else set()
            sites = [site for site in sites if site in seen]
        return self._score(stage, {site: job.roles[site].model for site in sites})

    def test_elsewhere(self, stage: int) -> dict[str, Scores]:
        """Score every architecture at the sites of others, where no part of it stays at a site."""
        job = self.config.job
        found = {}
        for name, one in self.architectures.items():
            others = [site for site in self._tested(stage) if job.roles[site].model != name]
            if others and not one.local:
                found[name] = self._score(stage, dict.fromkeys(others, name))
        return found

    def _tested(self, stage: int) -> list[str]:
        """Return the sites to score after `stage`: of the strategy's, those that are there."""
        there = set(self.exchange.roster.connected())
        sites = self.config.job.strategy.plan(self.config.timeline, stage).evaluated
        return [site for site in sites if site in there]

    def _score(self, stage: int, models: Mapping[str, str]) -> Scores:
        """Score on the test cases of each site, after `stage`, the architecture that is given."""
        task, sent = self.config.job.task, {}
        for name in dict.fromkeys(models.values()):
            one = self.architectures[name]
            # Where no site trains it, it has been trained before the run, and teaches.
            source = self.state.weights if one.sites else self.state.teacher
            sent[name] = records.to_record(one.shared(source))
        requests = self.exchange.to_score(models, sent, stage, "test")
        scores: Scores = {}
        answers = self.exchange.ask(Scored, requests)
        for site, answer in answers.items():
            names = task.scored(site)
            if isinstance(answer, Failure):
                when = f"after stage {stage + 1}" if stage >= 0 else "before the first stage"
                if not self.config.deployed:  # nobody is away; to be mended, and the run resumed
                    reason = answer.reason.partition("\n")[0]
                    raise RunError(f"site {site} could not be evaluated {when}: {reason}")
                self.state.ledger.fail(site, stage, self.state.round, "test", answer.reason)
                continue
            scores[site] = {
                score: dict(zip(answer.cases, answer.scores[score], strict=True)) for score in names
            }
            took = self.state.predicting.setdefault(models[site], {})
            took[site] = answer.predicting / len(answer.cases)
        return scores

    def remember(self, stage: Stage) -> arrays.Arrays:
        """Ask for the strategy's reports, if it wants any, and let it remember the stage.

        Each architecture that sites have trained is remembered for itself.
        """
        job, state = self.config.job, self.state
        trained = {job.roles[site].model for site in state.trained[state.stage]}
        reports = self._reports(stage, trained)
        most = stage.weighed(list(reports))[1]
        memory = arrays.Arrays()
        for name, one in self.architectures.items():
            known = one.part(state.memory)
            if name in trained:
                arrays.into_network(one.network, one.part(state.weights))
                own = {site: told for site, told in reports.items() if site in one.sites}
                summary = StageSummary(
                    task=job.task,
                    stage=state.stage,
                    network=one.network.requires_grad_(False).eval(),
                    shape=tuple(self.shape),
                    memory=known,
                    reports={site: told.arrays for site, told in own.items()},
                    samples={
                        s: min(told.samples, most.get(s, told.samples)) for s, told in own.items()
                    },
                    rng=torch_rng("remember", job.seed, state.stage),
                )
                before, known = known, job.strategy.remember(summary)
                if job.strategy.teaching is not None and job.strategy.teaching.bank:
                    known |= bank.kept(before, state.stage, one.network)
            memory |= one.whole(known)
        return memory

    def _reports(self, stage: Stage, trained: Collection[str]) -> dict[str, Report]:
        """Return the reports that are as they should be; the others count as failures.

        Args:
            stage: whose sites are asked.
            trained: the architectures to ask about.

        Raises:
            RunError: they are fewer than `engine.quorum` asks for, or none of an architecture.
        """
        job, state = self.config.job, self.state
        forms: dict[str, Mapping[str, Form]] = {}
        sent = {}
        for name in trained:
            one = self.architectures[name]
            reporting = job.strategy.reporting(one.network, job.task, self.shape)
            if reporting is not None:
                forms[name] = reporting.forms
            sent[name] = records.to_record(one.shared(state.weights))
        # Who has delivered nothing, or only rehearses, has nothing to tell.
        trained_here = self.config.timeline.trainers(state.trained[state.stage])
        owed = [
            site
            for site in trained_here
            if forms.get(job.roles[site].model) and site not in state.shut_out
        ]
        if not owed:
            return {}
        there = self.config.timeline.trainers(stage.cohort)
        lacking = {site: "it is not there" for site in owed if site not in there}
        requests = {
            site: self.exchange.request(
                ReportRequest,
                site,
                state.stage,
                model=job.roles[site].model,
                arrays=sent[job.roles[site].model],
                shares=stage.data(site)[0],
                forms={key: form.shape for key, form in forms[job.roles[site].model].items()},
            )
            for site in there
            if site in owed
        }
        reports: dict[str, Report] = {}
        for site, answer in self.exchange.ask(Report, requests).items():
            if isinstance(answer, Failure):
                lacking[site] = answer.reason
            elif problem := _problem(answer, forms[job.roles[site].model]):
                lacking[site] = problem
            else:
                reports[site] = answer
        for site, reason in lacking.items():
            state.ledger.fail(site, state.stage, state.round, "report", reason)
        self._check_quorum(reports, owed, lacking)
        if self.config.privacy.at_hospitals:
            self._tell_spent(there)
        return reports

    def _check_quorum(
        self, reports: Collection[str], owed: Collection[str], lacking: Mapping[str, str]
    ) -> None:
        """Raise `RunError` where too few sites have reported, in all or of a model."""
        roles, needed = self.config.job.roles, self.config.engine.needed(len(owed))
        told = {roles[site].model for site in reports}
        silent = [name for name in {roles[s].model: None for s in owed} if name not in told]
        if len(reports) >= needed and not silent:
            return
        asks = f"engine.quorum asks for {needed}"
        if len(reports) >= needed:
            asks = f"none of model {some_of(silent)}"
        first = {site: reason.partition("\n")[0] for site, reason in lacking.items()}
        reasons = some_of((f"{site}: {reason}" for site, reason in first.items()), sep="; ")
        raise RunError(
            f"{len(reports)} of {len(owed)} sites reported after stage {self.state.stage + 1}, "
            f"{asks} ({reasons})"
        )

    def _tell_spent(self, asked: Collection[str]) -> None:
        """Say what the reports that were asked for have cost by now."""
        told = spent(self.config, self.state)
        costs = (f"{site} {told['epsilon'][site]:.3g}" for site in asked)
        words = self.state.stage + 1, told["delta"], some_of(costs), told["neighbours"]
        log.info("reports of stage %d: epsilon by now, at delta %g: %s (%s)", *words)


def _problem(report: Report, forms: Mapping[str, Form]) -> str | None:
    """Return why a report is not what the strategy asks for, or None."""
    if report.arrays.keys() != forms.keys():
        return "its arrays are not those of the strategy"
    said = ((key, forms[key].problem(report.arrays[key])) for key in forms)
    return next((f"{key} {what}" for key, what in said if what), None)
