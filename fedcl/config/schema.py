"""The typed configuration of a run and every check of a bad value."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedcl.aggregations.base import Aggregation
from fedcl.config.faults import Faults
from fedcl.config.groups import DEPLOYED, Engine, Groups, Release, Run, Tracking
from fedcl.config.job import Job
from fedcl.config.roles import Roles
from fedcl.config.timeline import timeline_of
from fedcl.errors import ConfigError, some_of
from fedcl.learning.strategy import Strategy
from fedcl.privacy.base import Privacy
from fedcl.registry import (
    AGGREGATION,
    AUGMENT,
    OPTIMISER,
    PRIVACY,
    SCENARIO,
    SCHEDULE,
    STRATEGY,
    describe,
    name_of,
)
from fedcl.settings import closest, flat, free
from fedcl.timeline import Timeline


@dataclass(frozen=True)
class Config:
    """Everything about a run, checked.

    Attributes:
        samples: how many training samples sites are known to have, where that is said.
    """

    job: Job
    timeline: Timeline
    aggregation: Aggregation
    engine: Engine
    faults: Faults
    stragglers: float
    wait: float
    tracking: Tracking
    release: Release
    run: Run
    samples: dict[str, int]

    @classmethod
    def parse(cls, values: Mapping[str, Any], simulated: bool = True) -> "Config":
        """Check a composed configuration.

        Args:
            values: as composed.
            simulated: whether the data of all sites lie here, so that their names can be checked.

        Raises:
            ConfigError, DataError: one line that names the key, file or site.
        """
        groups = Groups.parse(values)
        scenario = SCENARIO.make(values["scenario"])
        strategy = STRATEGY.make(values["strategy"])
        timeline = timeline_of(groups.timeline, scenario.arrivals, groups.seed)
        there = scenario.sites() if simulated else timeline.sites
        for site in timeline.sites:
            if site not in there:
                listed = site in groups.timeline.sites
                given = "scenario" if groups.timeline.stages is None else "timeline"
                key = f"timeline.sites.{site}" if listed else f"{given}.stages"
                raise ConfigError(
                    f"{key}: {name_of(scenario)} has no site {site!r}{closest(site, there)}; "
                    f"there are: {some_of(there)}"
                )
        known = there if simulated else None
        models, roles = Roles(values, groups.sites, timeline, known, scenario, strategy).find()
        config = cls(
            job=Job(
                scenario=scenario,
                strategy=strategy,
                models=models,
                roles=roles,
                learner=groups.learner,
                augment=AUGMENT.make(values.get("augment") or {"name": "none"}),
                optimiser=OPTIMISER.make(values.get("optimiser") or {"name": "adam"}),
                schedule=SCHEDULE.make(values.get("schedule") or {"name": "exponential"}),
                seed=groups.seed,
                privacy=PRIVACY.make(values.get("privacy") or {"name": "none"}),
            ),
            timeline=timeline,
            aggregation=AGGREGATION.make(values.get("aggregation") or {"name": "fedavg"}),
            engine=groups.engine,
            faults=groups.faults,
            stragglers=groups.timeline.stragglers,
            wait=groups.timeline.wait if groups.engine.name == DEPLOYED else 0.0,
            tracking=groups.tracking,
            release=groups.release,
            run=groups.run,
            samples={s: one.samples for s, one in groups.sites.items() if one.samples is not None},
        )
        for check in CHECKS:
            check(config)
        return config

    @property
    def privacy(self) -> Privacy:
        """The rule for updates or reports."""
        return self.job.privacy

    @property
    def deployed(self) -> bool:
        """Whether hospitals are real ones, which may be there or not."""
        return self.engine.name == DEPLOYED

    def settled(self, values: Mapping[str, Any]) -> "Config":
        """Return it with scenario settings that hospitals had to measure.

        Raises:
            ConfigError: they measured what cannot be.
        """
        scenario = replace(self.job.scenario, **values)
        return replace(self, job=replace(self.job, scenario=scenario))

    def fingerprint(self) -> dict[str, Any]:
        """Return, by dotted keys, all that what is learned depends on, as JSON has it."""
        values, job = json.loads(self.job.to_json()), self.job
        groups = {"learner": job.learner, "scenario": job.scenario, "strategy": job.strategy}
        idle = {key for group, settings in groups.items() for key in free(settings, group)}
        parts = {"timeline": asdict(self.timeline), "faults": asdict(self.faults)}
        parts["timeline"]["stragglers"] = self.stragglers
        if self.release.on_refusal is not None:  # what then follows may change: one may think anew
            parts["release"] = {"margin": self.release.margin, "alpha": self.release.alpha}
        parts |= {"aggregation": describe(self.aggregation), "privacy": describe(self.privacy)}
        told = flat(values | json.loads(json.dumps(parts)))
        return {key: value for key, value in told if key not in idle}

    def asked(self, trainers: list[str], round_: int) -> list[str]:
        """Return which of a stage's trainers are asked in a round: who is away is not.

        There remain as many as the quorum and, of every architecture, the aggregation need.

        Args:
            trainers: of the stage.
            round_: counted from 1 over all stages.
        """
        teams: dict[str, list[str]] = {}
        for site in trainers:
            teams.setdefault(self.job.roles[site].model, []).append(site)
        quorum = self.engine.quorum if isinstance(self.engine.quorum, int) else 1
        floors = [(quorum, trainers)] + [(self.aggregation.least, team) for team in teams.values()]
        return self.timeline.reached(trainers, round_, floors)


def _somebody_is_taught(config: Config) -> None:
    roles = config.job.roles.values()
    if config.job.strategy.teaching and not any(role.teacher for role in roles):
        raise ConfigError(
            "strategy.teacher.peers: false, but all sites have the teacher's architecture, so that "
            "nobody would be taught; give some another one by sites"
        )


def _who_teaches_at_first_can(config: Config) -> None:
    job, strategy = config.job, config.job.strategy
    taught_by = {role.teacher for role in job.roles.values()}
    trained = {role.model for role in job.roles.values()}
    for name, model in job.models.items():
        key = "model" if name == name_of(model) else f"models.{name}"
        if model.weights is not None and name not in trained:
            raise ConfigError(
                f"{key}.weights: no site trains {name}; one that only teaches is given by "
                "strategy.teacher.file"
            )
        if not model.teaches:
            continue
        problem = ""
        if model.weights is None:
            problem = "there are no model.weights that could"
        elif strategy.teaching is None or strategy.teaching.changes == "never":
            problem = f"strategy {name_of(strategy)} has no teacher that they could be"
        elif name not in taught_by:
            problem = f"nobody is taught by {name}"
        elif type(strategy).reporting is not Strategy.reporting:
            problem = f"strategy {name_of(strategy)} needs what hospitals told of a stage before"
        elif type(strategy).remember is not Strategy.remember:
            problem = f"strategy {name_of(strategy)} needs what was remembered of a stage before"
        elif job.task.known_inputs is not None:
            problem = f"{job.task.words} are taught where others were, and nobody was"
        if problem:
            raise ConfigError(f"{key}.teaches: {problem}; take false")


def _somebody_is_scored(config: Config) -> None:
    task, sites = config.job.task, config.timeline.sites
    if not any(task.scores[0] in task.scored(site) for site in sites):
        raise ConfigError(
            f"timeline.stages: none of {some_of(sites)} can be scored by "
            f"{task.scores[0]}, by which runs are judged; let a site arrive that can"
        )


def _privacy_holds(config: Config) -> None:
    config.privacy.check(config.job.strategy, config.aggregation, config.timeline)
    plain = name_of(config.privacy) == "none" or config.privacy.at_hospitals
    if config.engine.norm_bound is not None and not plain:
        raise ConfigError(
            f"engine.norm_bound: {name_of(config.privacy)} bounds every update by itself, and one "
            "site's update must not decide over another's; take null"
        )


def _faults_can_happen(config: Config) -> None:
    sites = config.timeline.sites
    config.faults.check(sites, config.stragglers)
    if config.timeline.centralised and any(map(config.faults.of, sites)):
        raise ConfigError("faults: a pool has no single site that could fail; take none")


def _a_pool_is_enough(config: Config) -> None:
    if config.timeline.centralised and config.job.strategy.requirements.every_update:
        raise ConfigError(
            f"timeline.centralised: {name_of(config.job.strategy)} reads every site's own update, "
            "and a pool has one; take another strategy"
        )


def _models_can_be_judged(config: Config) -> None:
    task = config.job.task
    if config.release.on_refusal is not None and not task.held_out:
        raise ConfigError(
            f"release.on_refusal: {task.words} has no cases to validate on but those it is trained "
            "on; take null"
        )


def _models_can_be_kept(config: Config) -> None:
    if config.release.name is None:
        return
    if not config.tracking.enabled:
        raise ConfigError(
            "release.name: MLflow keeps models, and tracking.enabled is false (of a deployed run: "
            "FEDCL_TRACKING is not set in the server's start.sh); take null"
        )
    if not config.job.task.held_out:
        raise ConfigError(
            f"release.name: {config.job.task.words} are kept in the run's folder alone, see fedcl "
            "export; take null"
        )


def _cases_can_come_in(config: Config) -> None:
    task = config.job.task
    for site, stay in config.timeline.stays.items():
        if stay.ramp > 1 and not task.held_out:
            raise ConfigError(
                f"timeline.sites.{site}.ramp: {task.words} cannot come in bit by bit; take 1"
            )


def _every_stage_can_be_played(config: Config) -> None:
    timeline, aggregation, quorum = config.timeline, config.aggregation, config.engine.quorum
    for stage in range(len(timeline.stages)):
        trainers = timeline.trainers(config.job.strategy.plan(timeline, stage).cohort)
        if not trainers:
            raise ConfigError(
                f"timeline: nobody trains in stage {stage + 1}; let a site arrive in it, get "
                "more cases or be back, or change timeline.participation"
            )
        if config.engine.needed(len(trainers)) > len(trainers):
            raise ConfigError(
                f"engine.quorum: {quorum} sites cannot be reached in stage "
                f"{stage + 1}, where {len(trainers)} train"
            )
        teams = Counter(config.job.roles[site].model for site in trainers)
        for model, count in teams.items():
            if aggregation.least > count:
                which = f" {model}" if len(config.job.models) > 1 else ""
                raise ConfigError(
                    f"aggregation: {name_of(aggregation)} needs {aggregation.least} sites, "
                    f"{count} train{which} in stage {stage + 1}; change timeline.stages or "
                    "aggregation"
                )


CHECKS = (
    _somebody_is_taught,
    _who_teaches_at_first_can,
    _somebody_is_scored,
    _privacy_holds,
    _faults_can_happen,
    _a_pool_is_enough,
    _models_can_be_judged,
    _models_can_be_kept,
    _cases_can_come_in,
    _every_stage_can_be_played,
)
"""What the parts of a configuration must be to one another; each raises `ConfigError`."""
