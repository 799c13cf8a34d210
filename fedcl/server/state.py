"""The state of a run: all that it needs to go on from a round."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from fedcl.arrays import Arrays
from fedcl.errors import ConfigError
from fedcl.server.ledger import Ledger
from fedcl.server.results import Verdict

ARRAYS = ("weights", "teacher", "memory", "momentum", "best")
"""The parts of a state that are arrays: one file each."""


Count = Annotated[int, Field(ge=0, lt=2**62)]
"""A whole number from 0 on."""
Scores = dict[str, dict[str, dict[str, float]]]
"""Per site, per score, per case: one number."""


@dataclass
class State:
    """All that a run needs to go on from a round.

    Attributes:
        weights: the global model; of several architectures, see `fedcl.server.architecture`.
        configuration: what the run was begun with, as `Config.fingerprint` gives it.
        teacher: what teaches in the current stage, if anything; likewise.
        memory: what the strategy remembers of earlier stages.
        momentum: what the aggregation carries from round to round, within a stage.
        best, best_score, best_round: with `learner.keep=best_round` the weights of the best round
            of the stage so far, the mean of its validation scores (None before there is one) and
            its number.
        chosen: the round, counted over all stages, whose weights each finished stage ended with.
        verdicts: what became of the model of each finished stage (`fedcl.server.results.Verdict`).
        round: rounds finished, over all stages.
        tries: how often the next one has failed.
        changes: of the last round, how far each update went that was joined; see
            `fedcl.server.changes.Scale`.
        validation: of the last round, each site's mean score.
        shut_out: the sites that are left out for the rest of the stage, since a round was taken
            back for what they sent.
        initial: scores of the untrained model, once it was evaluated.
        rows: scores after each finished stage, of every site's own architecture.
        elsewhere: likewise, per architecture, at the sites of others.
        costs: of every architecture, `parameters` and multiply-accumulates per sample, `macs`.
        predicting: seconds that an architecture took per case when last evaluated, by site.
        trained: the sites that trained, per stage.
        versions: the round of each site's own latest state.
        ended: the same at the end of each stage.
        kept: digest of each site's own latest state.
        stored: training samples that each site keeps for later stages.
        holds: digests of what each site was sent and keeps.
        digests: digest of each site's data.
        begun: of every architecture that began with weights trained before, what was taken.
        settled: scenario settings that hospitals had to measure.
        from_data: those that the data decide by themselves (`Scenario.from_data`).
        samples: shape of what networks are shown of an image, by site.
        notes: what was left out, guessed or changed in reading them, by site.
        left_out: what lies beside the sites' data and is of none.
        sources: of a field, where each site's values come from (`Source.numbers`).
        ledger: costs and failures so far.
        sent: the ledger's bytes at the end of each stage.
        forgot: of a run that is another one without a hospital, `from_stage`, the first stage that
            was played again, counted from 1, and `stages_replayed`.
        deciding: the engine's settings that decide whose updates make a round.
        changed: which of them were changed as the run was gone on with, after which round.
        tracking_run, tracking_experiment: the MLflow run, and the experiment that it is in.
        secret: what noise is drawn from that nobody else may know; a round repeated after a
            crash has the same again.
    """

    weights: Arrays
    configuration: dict[str, Any] = field(default_factory=dict)
    teacher: Arrays = field(default_factory=dict)
    memory: Arrays = field(default_factory=dict)
    momentum: Arrays = field(default_factory=dict)
    best: Arrays = field(default_factory=dict)
    best_score: float | None = None
    best_round: Count = 0
    chosen: list[Count] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    round: Count = 0
    tries: Count = 0
    changes: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] = field(default_factory=dict)
    shut_out: list[str] = field(default_factory=list)
    initial: Scores | None = None
    rows: list[Scores] = field(default_factory=list)
    elsewhere: list[dict[str, Scores]] = field(default_factory=list)
    costs: dict[str, dict[str, Count]] = field(default_factory=dict)
    predicting: dict[str, dict[str, float]] = field(default_factory=dict)
    trained: list[list[str]] = field(default_factory=list)
    versions: dict[str, Count] = field(default_factory=dict)
    ended: list[dict[str, Count]] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    stored: dict[str, Count] = field(default_factory=dict)
    holds: dict[str, list[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    begun: dict[str, dict[str, Any]] = field(default_factory=dict)
    settled: dict[str, list[float]] = field(default_factory=dict)
    from_data: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, list[Count]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    sources: dict[str, list[float]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    sent: list[dict[str, Count]] = field(default_factory=list)
    forgot: dict[str, Count] = field(default_factory=dict)
    deciding: dict[str, Any] = field(default_factory=dict)
    changed: list[dict[str, Any]] = field(default_factory=list)
    tracking_run: str | None = None
    tracking_experiment: str | None = None
    secret: Count = field(default_factory=lambda: secrets.randbits(62))

    @property
    def stage(self) -> int:
        """The stage in progress, counted from 0."""
        return len(self.rows)

    def versions_at_ends(self, site: str) -> list[int]:
        """Return the versions of its own state that a site had at the ends of stages."""
        return sorted({ended[site] for ended in self.ended if site in ended})

    def note_trained(self, sites: list[str]) -> None:
        """Record that `sites` trained in the current stage, in order of first training."""
        if len(self.trained) == self.stage:
            self.trained.append([])
        self.trained[-1] += [site for site in sites if site not in self.trained[-1]]


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a run goes on with the configuration that it was begun with.

    Args:
        before: `Config.fingerprint` of then.
        now: of now.

    Raises:
        ConfigError: it does not; names the site that is new or gone, or the setting.
    """
    then, there = (
        {key.removeprefix("roles.").rpartition(".")[0] for key in one if key.startswith("roles.")}
        for one in (before, now)
    )
    for site in sorted(then ^ there):
        what = "there, and was not" if site in there else "not there any more, and was"
        raise ConfigError(
            f"site {site} is {what} when the run was begun: give the run the sites that it had, or "
            "begin a new one"
        )
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{key}: the run was begun with {before.get(key)!r}, config.yaml says "
                f"{now.get(key)!r} now; put it back, or begin a new run"
            )
