"""One stage of a run as a Flower strategy: its rounds, from the cohort to the average."""

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from statistics import fmean

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.errors import RunError, some_of
from fedcl.learning.strategy import RoundSummary
from fedcl.registry import name_of
from fedcl.server.architecture import Architecture
from fedcl.server.collapse import CollapseCheck
from fedcl.server.events import Round, Watcher
from fedcl.server.exchange import Exchange, Failure
from fedcl.server.intake import Intake
from fedcl.server.knowledge import Knowledge
from fedcl.server.shares import Weighing, shares
from fedcl.server.state import State
from fedcl.wire import records
from fedcl.wire.answers import Scored, Update
from fedcl.wire.requests import TrainRequest

log = logging.getLogger("fedcl")


class Stage(FlowerStrategy):
    """Federated rounds of one stage, from the state's weights and back into it.

    `start` runs them; after every round the state has moved on and the watchers are told.
    """

    def __init__(
        self,
        config: Config,
        exchange: Exchange,
        state: State,
        architectures: Mapping[str, Architecture],
        watchers: Sequence[Watcher],
    ) -> None:
        self.config, self.exchange, self.state = config, exchange, state
        self.watchers = watchers
        self.number = state.stage
        self.strategy = config.job.strategy
        plan = self.strategy.plan(config.timeline, self.number)
        self.expected, self.learning = plan.cohort, plan.learning
        if not config.timeline.centralised:  # a site lost in its own stage has kept nothing
            able = {*self.learning, *state.stored}
            self.expected = [site for site in self.expected if site in able]
        self.asked = self.trainers
        self.architectures = architectures
        self.losses: dict[str, dict[str, float]] = {}
        self.validation: dict[str, float] = {}
        self.shares: dict[str, float] = {}
        known = {site for stage in state.trained[: self.number] for site in stage}
        self.lost = [s for s in config.timeline.seen(self.number - 1) if s not in known]
        self._parts: dict[str, tuple[ArrayRecord, ArrayRecord]] = {}
        self.knowledge = Knowledge(self.strategy.teaching, state, architectures, self.number)

    @property
    def cohort(self) -> list[str]:
        """The sites of the stage that are there."""
        if self.config.timeline.centralised:
            return self.expected
        there = self.exchange.roster.nodes.keys() - self.state.shut_out
        return [site for site in self.expected if site in there]

    @property
    def trainers(self) -> list[str]:
        """Who computes for the cohort."""
        return self.config.timeline.trainers(self.cohort)

    def data(self, trainer: str) -> tuple[dict[str, float], list[str]]:
        """Return which samples a trainer is to use.

        Returns:
            The share of their training cases of sites that it learns from, and the sites that
            it rehearses.
        """
        group = self.cohort if self.config.timeline.centralised else [trainer]
        learning = [site for site in group if site in self.learning]
        shares = {site: self.config.timeline.share(site, self.number) for site in learning}
        return shares, [site for site in group if site not in self.learning]

    @property
    def _heard(self) -> list[str]:
        """The sites that have delivered in this stage."""
        return [site for stage in self.state.trained[self.number :] for site in stage]

    @property
    def _validating(self) -> list[str]:
        """The sites whose data this round is about."""
        if self.config.timeline.centralised:
            return self.cohort
        missed = self.exchange.ledger.missed  # who has just not answered is not waited for again
        return [site for site in self.asked if site not in missed]

    def run(self) -> None:
        """Run the rounds that are left.

        Raises:
            RunError: fewer updates than `engine.quorum` in a round.
            CollapseError: one site's update has spoilt a round for all.
        """
        left = (self.number + 1) * self.config.timeline.rounds - self.state.round
        if left:
            self.start(
                self.exchange.grid,
                self._shared(),
                num_rounds=left,
                timeout=self.config.engine.timeout,
                evaluate_fn=self._finish_round,
            )
        if self.state.best:
            self.state.weights = self.state.best

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every site of the cohort to train.

        Raises:
            RunError: none of them is there.
        """
        round_ = self.state.round + 1
        roster = self.exchange.roster
        if len(self.cohort) < len(self.expected) or {*self.cohort} - {*roster.connected()}:
            for site in roster.meet():
                log.info("stage %d: %s has come", self.number + 1, site)
        if not self.cohort:
            raise RunError(f"{self._now}: none of its sites is there")
        self.asked = self.config.asked(self.trainers, round_)
        away = [site for site in self.trainers if site not in self.asked]
        if away:
            log.info("stage %d, round %d: %s away", self.number + 1, round_, some_of(away))
        for watcher in self.watchers:
            watcher.round_began(self.number, round_, self.asked)
        return self.exchange.messages(
            {site: self._request(site, arrays, round_) for site in self.asked}
        )

    def _request(self, site: str, weights: ArrayRecord, round_: int) -> TrainRequest:
        """Return what a site is sent to train in a round, from the weights of all architectures."""
        role, arriving = self.config.job.roles[site], self.config.timeline.stages[self.number]
        learning, rehearsing = self.data(site)
        return self.exchange.request(
            TrainRequest,
            site,
            self.number,
            model=role.model,
            arrays=self._own(role.model, weights),
            teacher=self.knowledge.teacher(role),
            memory=self.knowledge.memory(role.model),
            shares=learning,
            rehearsing=rehearsing,
            lost=[*self.lost, *(s for s in arriving if s not in self._heard)],
            stage=self.number,
            round=round_,
            rounds=self.config.timeline.rounds,
            attempt=1 + 2 * self.state.tries,
            keep=self.knowledge.staying,
            needed=self.state.versions_at_ends(site),
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Join what the sites sent, in site order.

        An update that is missing, not finite or of another shape costs its site the round.
        """
        intake = self._taken_in(replies)
        updates, self.state.changes = intake.updates, intake.changes
        heard = self._heard
        moved, momentum = arrays.Arrays(), arrays.Arrays()
        self.shares = {}
        for name, architecture in self.architectures.items():
            weights = intake.joining(architecture).weights
            self.shares |= shares(weights)
            if weights:
                now, carried = self._moved(intake, architecture, heard)
                moved |= architecture.whole(now)
                momentum |= architecture.whole(carried)
            else:
                momentum |= architecture.whole(architecture.part(self.state.momentum))
                if name in {self.config.job.roles[site].model for site in self.asked}:
                    log.warning("%s: nobody delivered %s, which stays as it was", self._now, name)
        self._collapse.check_joined(moved | momentum)
        kept = {site: update.kept for site, update in updates.items() if update.kept}
        self.state.kept |= kept
        self.state.versions |= dict.fromkeys(kept, self.state.round + 1)
        self.state.stored |= {s: u.stored for s, u in updates.items() if u.stored}
        delivered = self.cohort if self.config.timeline.centralised else updates
        self.state.note_trained([site for site in self.learning if site in delivered])
        self.losses = {site: update.losses for site, update in updates.items()}
        self.state.momentum = momentum
        self.state.weights = self.state.weights | moved  # a new dict: the old one may teach
        for watcher in self.watchers:
            watcher.round_joined(self.state)
        return self._shared(), None

    @property
    def _collapse(self) -> CollapseCheck:
        return CollapseCheck(self.config, self.state, self.architectures)

    @property
    def _now(self) -> str:
        """The round that is being played, in words."""
        return f"stage {self.number + 1}, round {self.state.round + 1}"

    def _taken_in(self, replies: Iterable[Message]) -> Intake:
        """Take in the round's updates; those that cannot be joined count as failures.

        Raises:
            RunError: too few are left.
        """
        (expected, most), round_ = self.weighed(self.asked), self.state.round + 1
        for site, count in most.items():
            if count < expected[site]:
                told = "%s: %s counts as %d samples, not as %d (engine.largest_share)"
                log.info(told, self._now, site, count, expected[site])
        intake = Intake(self.config, self.state, self.architectures, expected, most)
        with closing(self.exchange.answers(Update, self.asked, replies)) as answers:
            for site, answer in answers:
                intake.take(site, answer)
        intake.close()
        ledger = self.exchange.ledger
        for site in self.asked:
            problem = intake.refused.get(site)
            if problem is None:
                ledger.judge(site, "delivered")
            else:
                ledger.fail(site, self.number, round_, "update", problem.reason)
                ledger.judge(site, "refused" if problem.came else "lost")
            self.exchange.heard(site, problem is not None and problem.silent, self.number, round_)
        self._collapse.check_training(self.asked, intake.refused)
        self._check_quorum(intake.updates, intake.refused)
        return intake

    def weighed(self, trainers: Sequence[str]) -> tuple[dict[str, int], dict[str, int]]:
        """Return on how many samples trainers will train, and as how many some count at most."""
        weighing = Weighing(
            self.config, self.architectures, self.exchange.roster.samples, self.state.stored
        )
        expected = {trainer: weighing.expected(*self.data(trainer)) for trainer in trainers}
        return expected, weighing.most(expected, self.learning)

    def _moved(
        self, intake: Intake, architecture: Architecture, heard: Sequence[str]
    ) -> tuple[arrays.Arrays, arrays.Arrays]:
        """Return the next arrays of an architecture that sites share, and the momentum.

        Args:
            intake: with at least one update of it.
            architecture: whose arrays they are.
            heard: the sites that had delivered in this stage before.
        """
        config, round_, sites = self.config, self.state.round + 1, architecture.sites
        seed, joining = config.job.seed, intake.joining(architecture)
        several = [architecture.name] if architecture.prefix else []
        joined = joining.result((self.state.secret, round_, *several))
        started = time.perf_counter()
        refined = self.strategy.refine(
            RoundSummary(
                task=config.job.task,
                network=architecture.network,
                joined=joined,
                updates={
                    site: intake.updates[site].arrays
                    for site in joining.digests
                    if self.strategy.requirements.every_update
                },
                teacher=architecture.part(self.state.teacher) if self.number else {},
                earlier=[s for s in config.timeline.seen(self.number - 1) if s in sites],
                lost=[site for site in self.lost if site in sites],
                before=joining.old,
                heard=[site for site in heard if site in sites],
                model=architecture.model,
                keys=("refine", seed, self.number, round_, *several),
            )
        )
        self.exchange.ledger.seconds["train"] += time.perf_counter() - started
        return config.aggregation.move(
            joining.old,
            refined,
            architecture.parameters,
            architecture.part(self.state.momentum),
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the cohort to validate the new weights."""
        models = {site: self.config.job.roles[site].model for site in self._validating}
        sent = {name: self._own(name, arrays) for name in models.values()}
        requests = self.exchange.to_score(models, sent, self.number, "val")
        return self.exchange.messages(requests)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep each site's mean validation score.

        Raises:
            CollapseError: see `run`.
        """
        self.validation, failed = {}, dict[str, Failure]()
        for site, answer in self.exchange.answers(Scored, self._validating, replies):
            score = self.config.job.task.scored(site)[0]
            if isinstance(answer, Failure):
                failed[site] = answer
                self.exchange.ledger.fail(
                    site, self.number, self.state.round + 1, "validation", answer.reason
                )
            else:
                self.validation[site] = fmean(answer.scores[score])
        self._collapse.check_validation(self.validation, failed)
        return None

    def summary(self) -> None:
        """Say nothing: the run's own log says it."""

    def _check_quorum(self, delivered: Collection[str], refused: Mapping[str, Failure]) -> None:
        """Raise `RunError` where a round got too few updates, in all or to join."""
        cohort = {*self.asked, *self.cohort}
        absent = [site for site in self.expected if site not in cohort]
        asks, got, of = "", len(delivered), len(self.asked) + len(absent)
        if got < self.config.engine.needed(of):
            asks = f"engine.quorum asks for {self.config.engine.needed(of)}"
        else:
            least = self.config.aggregation.least
            for one in self.architectures.values():
                there = sum(site in one.sites for site in delivered)
                if 0 < there < least:
                    got, of = there, sum(site in one.sites for site in self.asked)
                    asks = f"aggregation {name_of(self.config.aggregation)} needs {least}"
        if asks:
            first = {site: one.reason.partition("\n")[0] for site, one in refused.items()}
            first |= dict.fromkeys(self.state.shut_out, "left out of this stage")
            reasons = some_of((f"{site}: {reason}" for site, reason in first.items()), sep="; ")
            raise RunError(
                f"{self._now}: {got} of {of} sites delivered an update, {asks} ({reasons})"
            )

    def _finish_round(self, server_round: int, _: ArrayRecord) -> None:
        if server_round == 0:
            return
        self.state.round += 1
        self.state.tries = 0
        self.state.validation = self.state.validation | self.validation
        self.exchange.ledger.weigh(self.shares)
        self._choose()
        self.knowledge.advance()
        done = Round(self.number, self.state.round, self._validating, self.losses, self.validation)
        for watcher in self.watchers:
            watcher.round_done(done, self.state)

    def _choose(self) -> None:
        """Keep the weights of a round that is better than all before in the stage.

        Only rounds in which the whole cohort has validated can be compared.
        """
        if self.config.job.learner.keep != "best_round" or not self.validation:
            return
        state, score = self.state, fmean(self.validation.values())
        whole = self.validation.keys() >= {*self.expected} - {*state.shut_out}
        if whole and (state.best_score is None or score > state.best_score):
            state.best, state.best_score, state.best_round = state.weights, score, state.round

    def _own(self, model: str, weights: ArrayRecord) -> ArrayRecord:
        """Return an architecture's part of a round's weights, the same record for all its sites."""
        source, own = self._parts.get(model, (None, None))
        if own is None or source is not weights:
            begin = self.architectures[model].prefix
            part = {k.removeprefix(begin): v for k, v in weights.items() if k.startswith(begin)}
            own = ArrayRecord(part)
            self._parts[model] = weights, own
        return own

    def _shared(self) -> ArrayRecord:
        """Return the global weights, less what stays at the sites."""
        every = self.architectures.values()
        shared = (one.whole(one.shared(self.state.weights)) for one in every)
        return records.to_record({key: value for part in shared for key, value in part.items()})
