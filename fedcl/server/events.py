"""What the server tells those who watch a run: a display, MLflow, its own checkpoints."""

from dataclasses import dataclass

from fedcl.config.schema import Config
from fedcl.server.state import State
from fedcl.wire.answers import Hello


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


class Watcher:
    """Something that is told how a run goes; it says what interests it, in their order."""

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """The hospitals have answered; `state` is new or resumed."""

    def round_began(self, stage: int, number: int, cohort: list[str]) -> None:
        """The sites of `cohort` are about to be asked to train round `number` of the run."""

    def round_joined(self, state: State) -> None:
        """A round's updates are joined, and nobody has seen the new weights yet."""

    def round_done(self, done: Round, state: State) -> None:
        """A round is over; told again if the run is resumed from before it was saved."""

    def round_taken_back(self, state: State) -> None:
        """A round that may have been told is none any more; `state` is as before it."""

    def stage_done(self, config: Config, state: State) -> None:
        """Every site was evaluated after a stage; told again as `round_done` is."""
