"""One stage of a run as a Flower strategy: its rounds, from the cohort to the average."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy
from torch import nn

from fedcl import arrays
from fedcl.checkpoint import State
from fedcl.config import Config
from fedcl.errors import RunError
from fedcl.hospitals import Data, Hospitals
from fedcl.messages import Scored, Update
from fedcl.plugins import name_of
from fedcl.seeding import torch_rng
from fedcl.timeline import POOL
from strategies.base import Gathered


@dataclass(frozen=True)
class Round:
    """What one round showed.

    Attributes:
        stage: counted from 0.
        number: counted from 1 over all stages.
        cohort: the sites whose data were trained on.
        losses: mean loss terms per site that delivered.
        validation: mean score of the validation cases, per site of the cohort.
    """

    stage: int
    number: int
    cohort: list[str]
    losses: dict[str, dict[str, float]]
    validation: dict[str, float]


class Stage(FlowerStrategy):
    """Federated rounds of one stage, from the state's weights and back into it.

    `start` runs them; after every round the state has moved on and `done` is called.
    """

    def __init__(
        self,
        config: Config,
        hospitals: Hospitals,
        state: State,
        network: nn.Module,
        began: Callable[[int, int, list[str]], None],
        done: Callable[[Round], None],
    ) -> None:
        self.config, self.hospitals, self.state = config, hospitals, state
        self.began, self.done = began, done
        self.number = state.stage
        self.strategy = config.job.strategy
        self.cohort = self.strategy.cohort(config.timeline, self.number)
        self.learning = self.strategy.learning(config.timeline, self.number)
        if not config.timeline.centralised:  # a site lost in its own stage has kept nothing
            able = {*self.learning, *state.stored}
            self.cohort = [site for site in self.cohort if site in able]
        self.trainers = config.timeline.trainers(self.cohort)
        self.local = frozenset(config.job.local(network))
        self.network = network
        self.parameters = {name for name, _ in network.named_parameters()}
        self.losses: dict[str, dict[str, float]] = {}
        self.validation: dict[str, float] = {}
        known = {site for stage in state.trained for site in stage}
        self.lost = [s for s in config.timeline.seen(self.number - 1) if s not in known]
        self._sent: dict[str, tuple[arrays.Arrays, ArrayRecord]] = {}

    def data(self) -> dict[str, Data]:
        """Return which samples each trainer is to use."""
        pooled = self.config.timeline.centralised
        groups = {POOL: self.cohort} if pooled else {site: [site] for site in self.cohort}
        return {
            trainer: {
                "learning": [site for site in group if site in self.learning],
                "rehearsing": [site for site in group if site not in self.learning],
            }
            for trainer, group in groups.items()
        }

    def run(self) -> None:
        """Run the rounds that are left.

        Raises:
            RunError: fewer updates than `engine.quorum` in a round.
        """
        left = (self.number + 1) * self.config.timeline.rounds - self.state.round
        if left:
            self.start(
                self.hospitals.grid,
                arrays.to_record(self._shared(self.state.weights)),
                num_rounds=left,
                timeout=self.config.engine.timeout,
                evaluate_fn=self._finish_round,
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every site of the cohort to train."""
        round_ = self.state.round + 1
        self.began(self.number, round_, self.trainers)
        later = self.number > 0
        return self.hospitals.calls(
            "train",
            self.trainers,
            arrays,
            self.state.versions,
            self._record("teacher", self._teacher() if later else {}),
            self._record("memory", self.state.memory if later else {}),
            self.data(),
            arrivals=self.config.timeline.stages[: self.number + 1],
            lost=self.lost,
            stage=self.number,
            round=round_,
            rounds=self.config.timeline.rounds,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Join what the sites sent, in site order.

        An update that is missing, not finite or of another shape costs its site the round.
        """
        round_, reference = self.state.round + 1, self._shared(self.state.weights)
        answers = self.hospitals.answers(Update, self.trainers, replies)
        updates: dict[str, Update] = {}
        refused: dict[str, str] = {}
        for site, answer in answers.items():
            problem = (
                answer if isinstance(answer, str) else arrays.complaint(answer.arrays, reference)
            )
            if problem is not None:
                self.hospitals.ledger.fail(site, self.number, round_, "update", problem)
                refused[site] = problem.partition("\n")[0]
            elif isinstance(answer, Update):
                updates[site] = answer
        self._check_quorum(len(updates), refused, round_)
        kept = {site: update.kept for site, update in updates.items() if update.kept}
        self.state.kept |= kept
        self.state.versions |= dict.fromkeys(kept, round_)
        self.state.stored |= {s: u.stored for s, u in updates.items() if u.stored}
        delivered = self.cohort if self.config.timeline.centralised else updates
        heard = [site for stage in self.state.trained[self.number :] for site in stage]
        self.state.note_trained([site for site in self.learning if site in delivered])
        self.losses = {site: update.losses for site, update in updates.items()}
        rule = self.config.aggregation
        joined = self.config.privacy.join(
            rule,
            [update.arrays for update in updates.values()],
            [update.samples for update in updates.values()],
            reference,
            (self.state.secret, round_),
        )
        started = time.perf_counter()
        refined = self.strategy.refine(
            Gathered(
                task=self.config.job.scenario.task,
                network=self.network,
                joined=joined,
                updates={
                    site: update.arrays
                    for site, update in updates.items()
                    if self.strategy.reads_updates
                },
                teacher=self.state.teacher if self.number else {},
                earlier=self.config.timeline.seen(self.number - 1),
                lost=self.lost,
                before=reference,
                heard=heard,
                rate=self.config.job.model.rate,
                rng=torch_rng("refine", self.config.job.seed, self.number, round_),
            )
        )
        self.hospitals.ledger.seconds["train"] += time.perf_counter() - started
        moved, self.state.momentum = rule.move(
            reference, refined, self.parameters, self.state.momentum
        )
        self.state.weights = self.state.weights | moved  # a new dict: the old one may teach
        return arrays.to_record(self._shared(self.state.weights)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the cohort to validate the new weights."""
        return self.hospitals.calls(
            "evaluate",
            self.cohort,
            arrays,
            self.state.versions,
            arrivals=self.config.timeline.stages[: self.number + 1],
            split="val",
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep each site's mean validation score."""
        self.validation = {}
        for site, answer in self.hospitals.answers(Scored, self.cohort, replies).items():
            score = self.config.job.scenario.task.scored(site)[0]
            if isinstance(answer, Scored) and score not in answer.scores:
                answer = f"it left out {score}"
            if isinstance(answer, str):
                self.hospitals.ledger.fail(
                    site, self.number, self.state.round + 1, "validation", answer
                )
            else:
                self.validation[site] = fmean(answer.scores[score])
        return None

    def summary(self) -> None:
        """Say nothing: the run's own log says it."""

    def _check_quorum(self, delivered: int, refused: dict[str, str], round_: int) -> None:
        quorum = self.config.engine.needed(len(self.trainers))
        least = self.config.aggregation.least
        if delivered >= max(quorum, least):
            return
        asks = f"engine.quorum asks for {self.config.engine.quorum}"
        if delivered >= quorum:
            asks = f"aggregation {name_of(self.config.aggregation)} needs {least}"
        reasons = "; ".join(f"{site}: {reason}" for site, reason in refused.items())
        raise RunError(
            f"stage {self.number + 1}, round {round_}: {delivered} of {len(self.trainers)} "
            f"sites delivered an update, {asks} ({reasons})"
        )

    def _finish_round(self, server_round: int, _: ArrayRecord) -> None:
        if server_round == 0:
            return
        self.state.round += 1
        teaching = self.strategy.teaching
        if teaching is not None and teaching.refresh == "ema":
            self.state.teacher = _moving_average(
                self.state.teacher, self.state.weights, teaching.decay
            )
        self.done(Round(self.number, self.state.round, self.cohort, self.losses, self.validation))

    def _teacher(self) -> arrays.Arrays:
        teaching = self.strategy.teaching
        if teaching is None or not self.strategy.sends_teacher:
            return {}
        return self.state.weights if teaching.refresh == "round" else self.state.teacher

    def _record(self, name: str, source: arrays.Arrays) -> ArrayRecord | None:
        """Return `source` as a record, the same one while it is the same: grids share it."""
        if not source:
            return None
        if name not in self._sent or self._sent[name][0] is not source:
            self._sent[name] = source, arrays.to_record(source)
        return self._sent[name][1]

    def _shared(self, weights: arrays.Arrays) -> arrays.Arrays:
        return arrays.split(weights, self.local)[0]


def _moving_average(old: arrays.Arrays, new: arrays.Arrays, decay: float) -> arrays.Arrays:
    """Return decay * old + (1 - decay) * new, or `new` where there is no old one."""
    if not old or decay == 0:
        return new
    return arrays.weighted_mean([old, new], [decay, 1 - decay])
