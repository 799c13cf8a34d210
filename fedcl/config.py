"""The typed configuration and every check of a bad value.

`Config` is all that a run needs; `Job`, a part of it, is all that a hospital is told:
names and numbers, no path and no code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from torch import nn

from fedcl.aggregations.base import Aggregation
from fedcl.errors import ConfigError
from fedcl.models.base import Model
from fedcl.plugins import AGGREGATION, MODEL, PRIVACY, SCENARIO, STRATEGY, describe, name_of
from fedcl.privacy.base import Privacy
from fedcl.settings import closest, parse, setting, travelling
from fedcl.task import Task
from fedcl.timeline import Timeline
from sites.base import Scenario
from strategies.base import Strategy


@dataclass
class Learner:
    """How a hospital trains in one round.

    Attributes:
        lr: Adam's learning rate: one number, or one per stage (the last one repeats).
        decay: what it falls to in the course of a stage, as a factor.
        batch_size: samples per step.
        epochs: passes over the site's training samples per round.
        steps: gradient steps per round; replaces `epochs` when given.
        clip: largest gradient norm; null for no clipping.
        keep: the weights sent back: of the "last" epoch, or of the epoch "best" on the
            site's validation cases.
        device: "auto" (CUDA when there is one), "cpu" or "cuda".
        amp: bfloat16 mixed precision, on a GPU only.
        compile: let torch.compile write the network's code: some seconds per process and
            stage, then faster steps for networks of many small operations (SIREN, FINER).
        threads: torch threads of a training process; one is fastest for small networks
            and keeps results the same from machine to machine.
    """

    lr: Any = field(default_factory=lambda: [0.002, 0.001])
    decay: float = setting(1.0, above=0, high=1)
    batch_size: int = setting(8, low=1, high=2**20)
    epochs: int = setting(2, low=1)
    steps: int | None = setting(None, low=1)
    clip: float | None = setting(None, above=0)
    keep: str = setting("last", choices=("last", "best"))
    device: str = setting("auto", choices=("auto", "cpu", "cuda"))
    amp: bool = True
    compile: bool = False
    threads: int = setting(1, low=1, high=1024)

    def __post_init__(self) -> None:
        """Check the learning rates, which may be one number or a list."""
        for rate in self._rates():
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 10:
                raise ConfigError(f"learner.lr: must be a positive number, got {rate!r}")

    def _rates(self) -> list[Any]:
        return (self.lr or [self.lr]) if isinstance(self.lr, list) else [self.lr]

    def rate(self, stage: int, done: float = 0.0) -> float:
        """Return the learning rate in `stage` (counted from 0), of which a share is done."""
        rates = self._rates()
        return float(rates[min(stage, len(rates) - 1)]) * self.decay**done


@dataclass
class Arrivals:
    """The timeline as configured; see `Timeline`."""

    stages: list[list[str]] | None = None
    rounds: int = setting(8, low=1)
    participation: str = setting("new", choices=("new", "cumulative"))
    centralised: bool = False


@dataclass
class Engine:
    """Where the hospitals of a simulation run.

    Attributes:
        name: "inprocess" (one process, for debugging) or "ray".
        workers: processes that train at the same time; null for as many as fit.
        num_cpus, num_gpus: share of a CPU or GPU that each worker takes.
        address: an existing Ray cluster to join; null starts one of our own.
        quorum: least updates per round, as a number of sites (integer) or as a share of
            the round's cohort (a fraction such as 0.5 or 1.0).
        timeout: seconds until a site that has not answered costs its round.
    """

    name: str = setting("ray", choices=("inprocess", "ray"))
    workers: int | None = setting(None, low=1)
    num_cpus: float = setting(1.0, low=0.001)
    num_gpus: float = setting(0.0, low=0)
    address: str | None = None
    quorum: Any = 0.5
    timeout: float = setting(3600.0, above=0)

    def __post_init__(self) -> None:
        """Check the quorum, which may be a count or a share."""
        ok = isinstance(self.quorum, int | float) and not isinstance(self.quorum, bool)
        if not ok or self.quorum <= 0 or (isinstance(self.quorum, float) and self.quorum > 1):
            raise ConfigError(
                "engine.quorum: must be a number of sites (1, 2, ...) or a share of the "
                f"cohort in (0, 1], got {self.quorum!r}"
            )

    def needed(self, cohort: int) -> float:
        """Return how many of `cohort` sites must deliver an update."""
        return self.quorum if isinstance(self.quorum, int) else self.quorum * cohort


@dataclass
class Tracking:
    """MLflow: whether and where."""

    enabled: bool = True
    uri: str = "sqlite:///mlflow.db"


@dataclass
class Run:
    """The run's folder, or that of the run to go on with."""

    dir: str | None = None
    resume: str | None = None


@dataclass(frozen=True)
class Job:
    """What a hospital is told: which scenario, strategy, model and learner, and the seed."""

    scenario: Scenario
    strategy: Strategy
    model: Model
    learner: Learner
    seed: int

    def local(self, network: nn.Module) -> set[str]:
        """Return the weight arrays of `network` that stay at the hospital, never averaged."""
        return self.strategy.local(network) | self.scenario.task.local(network)

    def to_json(self) -> str:
        """Return names and numbers alone, as JSON."""
        return json.dumps(
            {
                "scenario": describe(self.scenario),
                "strategy": describe(self.strategy),
                "model": describe(self.model),
                "learner": travelling(self.learner),
                "seed": self.seed,
            }
        )

    @classmethod
    @lru_cache(maxsize=8)
    def from_json(cls, text: str) -> "Job":
        """Read and check what `to_json` wrote.

        Raises:
            ConfigError: anything unknown or out of bounds.
        """
        return cls.parse(json.loads(text))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Job":
        """Build a job from the groups of a configuration."""
        seed = values.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"seed: must be a whole number >= 0, got {seed!r}")
        for group in ("scenario", "strategy", "model"):
            if not isinstance(values.get(group), Mapping):
                raise ConfigError(f"{group}: missing; give {group}=NAME")
        scenario, strategy, model = (
            kind.make(values[kind.key]) for kind in (SCENARIO, STRATEGY, MODEL)
        )
        task: Task = scenario.task
        for kind, plugin, fits in (
            (MODEL, model, lambda one: issubclass(one, task.models)),
            (STRATEGY, strategy, lambda one: issubclass(type(task), one.needs)),
        ):
            if not fits(type(plugin)):
                there = [name for name in kind.available() if fits(kind.find(name))]
                raise ConfigError(
                    f"{kind.key}: {name_of(plugin)} is not for {task.words}, which scenario "
                    f"{name_of(scenario)} holds; there are: {', '.join(there)}"
                )
        strategy.check(task, model)
        learner = parse(Learner, values.get("learner") or {}, "learner")
        if learner.keep == "best" and not task.held_out:
            raise ConfigError(
                f"learner.keep: {task.words} has no cases to validate on but those it is trained "
                "on; take learner.keep=last"
            )
        return cls(scenario=scenario, strategy=strategy, model=model, learner=learner, seed=seed)


@dataclass(frozen=True)
class Config:
    """Everything about a run, checked."""

    job: Job
    timeline: Timeline
    aggregation: Aggregation
    privacy: Privacy
    engine: Engine
    tracking: Tracking
    run: Run

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Config":
        """Check a composed configuration.

        Raises:
            ConfigError, DataError: one line that names the key, file or site.
        """
        known = [f.name for f in fields(Job)] + [f.name for f in fields(cls) if f.name != "job"]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"{key}: no such key{closest(str(key), known)}; there are: {', '.join(known)}"
                )
        job = Job.parse(values)
        arrivals = parse(Arrivals, values.get("timeline") or {}, "timeline")
        stages = job.scenario.arrivals() if arrivals.stages is None else arrivals.stages
        timeline = Timeline(
            tuple(map(tuple, stages)),
            arrivals.rounds,
            arrivals.participation,
            arrivals.centralised,
        )
        there = job.scenario.sites()
        for site in timeline.sites:
            if site not in there:
                raise ConfigError(
                    f"timeline.stages: scenario has no site {site!r}{closest(site, there)}; "
                    f"there are: {', '.join(there)}"
                )
        task = job.scenario.task
        if not any(task.scores[0] in task.scored(site) for site in timeline.sites):
            raise ConfigError(
                f"timeline.stages: none of {', '.join(timeline.sites)} can be scored by "
                f"{task.scores[0]}, by which runs are judged; let a site arrive that can"
            )
        engine = parse(Engine, values.get("engine") or {}, "engine")
        aggregation = AGGREGATION.make(values.get("aggregation") or {"name": "fedavg"})
        privacy = PRIVACY.make(values.get("privacy") or {"name": "none"})
        privacy.check(job.strategy, aggregation, timeline)
        for stage in range(len(timeline.stages)):
            count = len(timeline.trainers(job.strategy.cohort(timeline, stage)))
            if engine.needed(count) > count:
                raise ConfigError(
                    f"engine.quorum: {engine.quorum} sites cannot be reached in stage "
                    f"{stage + 1}, where {count} train"
                )
            if aggregation.least > count:
                raise ConfigError(
                    f"aggregation: {name_of(aggregation)} needs {aggregation.least} sites, "
                    f"{count} train in stage {stage + 1}; change timeline.stages or aggregation"
                )
        return cls(
            job=job,
            timeline=timeline,
            aggregation=aggregation,
            privacy=privacy,
            engine=engine,
            tracking=parse(Tracking, values.get("tracking") or {}, "tracking"),
            run=parse(Run, values.get("run") or {}, "run"),
        )
