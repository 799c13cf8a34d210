"""One stage of a run as a Flower strategy: its rounds, from the cohort to the average."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fedcl import arrays
from fedcl.checkpoint import State
from fedcl.config import Config
from fedcl.errors import RunError
from fedcl.hospitals import Hospitals
from fedcl.messages import Scored, Update


@dataclass(frozen=True)
class Round:
    """What one round showed.

    Attributes:
        stage: counted from 0.
        number: counted from 1 over all stages.
        cohort: the sites that were asked to train.
        losses: mean loss terms per site that delivered.
        validation: mean Dice on the validation cases, per site of the cohort.
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
        began: Callable[[int, int, list[str]], None],
        done: Callable[[Round], None],
    ) -> None:
        self.config, self.hospitals, self.state = config, hospitals, state
        self.began, self.done = began, done
        self.number = state.stage
        self.strategy = config.job.strategy
        self.cohort = self.strategy.cohort(config.timeline, self.number)
        self.losses: dict[str, dict[str, float]] = {}
        self.validation: dict[str, float] = {}
        self._taught_by: arrays.Arrays | None = None
        self._teacher_record: ArrayRecord | None = None

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
        self.began(self.number, round_, self.cohort)
        return self.hospitals.calls(
            "train",
            self.cohort,
            arrays,
            self.state.versions,
            self._teacher(),
            stage=self.number,
            round=round_,
        )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what the sites sent, in site order, weighted by their training slices.

        An update that is missing, not finite or of another shape costs its site the round.
        """
        round_, reference = self.state.round + 1, self._shared(self.state.weights)
        answers = self.hospitals.answers(Update, self.cohort, replies)
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
        needed = self.config.engine.needed(len(self.cohort))
        if len(updates) < needed or not updates:
            reasons = "; ".join(f"{site}: {reason}" for site, reason in refused.items())
            raise RunError(
                f"stage {self.number + 1}, round {round_}: {len(updates)} of "
                f"{len(self.cohort)} sites delivered an update, engine.quorum asks for "
                f"{self.config.engine.quorum} ({reasons})"
            )
        if any(self.strategy.local(key) for key in self.state.weights):
            self.state.versions |= dict.fromkeys(updates, round_)
            self.state.kept |= {site: update.kept for site, update in updates.items()}
        self.state.note_trained(list(updates))
        self.losses = {site: update.losses for site, update in updates.items()}
        mean = arrays.weighted_mean(
            [update.arrays for update in updates.values()],
            [update.slices for update in updates.values()],
        )
        self.state.weights = self.state.weights | mean  # a new dict: the old one may teach
        return arrays.to_record(self._shared(self.state.weights)), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the cohort to validate the new weights."""
        return self.hospitals.calls(
            "evaluate", self.cohort, arrays, self.state.versions, split="val"
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep each site's mean validation Dice."""
        self.validation = {}
        for site, answer in self.hospitals.answers(Scored, self.cohort, replies).items():
            if isinstance(answer, str):
                self.hospitals.ledger.fail(
                    site, self.number, self.state.round + 1, "validation", answer
                )
            else:
                self.validation[site] = fmean(answer.scores["dice"])
        return None

    def summary(self) -> None:
        """Say nothing: the run's own log says it."""

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

    def _teacher(self) -> ArrayRecord | None:
        teaching = self.strategy.teaching
        if teaching is None or self.number == 0:
            return None
        source = self.state.weights if teaching.refresh == "round" else self.state.teacher
        assert source is not None
        if source is not self._taught_by:  # one record per teacher: grids may then share it
            self._taught_by, self._teacher_record = source, arrays.to_record(source)
        return self._teacher_record

    def _shared(self, weights: arrays.Arrays) -> arrays.Arrays:
        return arrays.split(weights, self.strategy.local)[0]


def _moving_average(old: arrays.Arrays | None, new: arrays.Arrays, decay: float) -> arrays.Arrays:
    """Return decay * old + (1 - decay) * new, or `new` where there is no old one."""
    if old is None or decay == 0:
        return new
    return arrays.weighted_mean([old, new], [decay, 1 - decay])
