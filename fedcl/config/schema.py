"""The typed configuration of a run and every check of a bad value."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from fedcl.aggregations.base import Aggregation
from fedcl.config.faults import Faults
from fedcl.config.job import Job, Role, check_model, checked_seed
from fedcl.config.timeline import arrivals_of, timeline_of
from fedcl.errors import ConfigError
from fedcl.learning.loop import Learner
from fedcl.learning.scenario import Scenario
from fedcl.learning.strategy import LARGEST, OWN, Strategy
from fedcl.models.base import Model
from fedcl.privacy.base import Privacy
from fedcl.registry import AGGREGATION, MODEL, PRIVACY, SCENARIO, STRATEGY, describe, name_of
from fedcl.settings import closest, flat, parse, setting
from fedcl.timeline import POOL, Timeline

DEPLOYED = "superlink"
"""The engine of a deployed run."""


@dataclass
class Engine:
    """Where the hospitals of a simulation run.

    Attributes:
        name: "inprocess" (one process, for debugging) or "ray"; "superlink" is a deployed run.
        workers: processes that train at the same time; null for as many as fit.
        num_cpus, num_gpus: share of a CPU or GPU that each worker takes.
        address: an existing Ray cluster to join; null starts one of our own.
        quorum: least updates per round, as a number of sites (integer) or as a share of
            the round's cohort (a fraction such as 0.5 or 1.0).
        timeout: seconds until a site that has not answered costs its round.
        norm_bound: an update is refused whose change of the weights is longer than so many
            times the round's median, of three updates at least; null for no bound.
    """

    name: str = setting("ray", choices=("inprocess", "ray", DEPLOYED))
    workers: int | None = setting(None, low=1)
    num_cpus: float = setting(1.0, low=0.001)
    num_gpus: float = setting(0.0, low=0)
    address: str | None = None
    quorum: Any = 0.5
    timeout: float = setting(3600.0, above=0)
    norm_bound: float | None = setting(None, low=1)

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
    """MLflow: whether and where.

    Attributes:
        enabled: whether runs are written there.
        uri: a database or a server.
        wait: seconds that the end of a run waits for an MLflow that is away; what it could not
            be told by then is kept in the run's folder.
    """

    enabled: bool = True
    uri: str = "sqlite:///mlflow.db"
    wait: float = setting(60.0, low=0)


@dataclass
class Run:
    """The run's folder, or that of the run to go on with; whether figures are drawn at its end."""

    dir: str | None = None
    resume: str | None = None
    figures: bool = True


@dataclass
class Site:
    """What is particular to one hospital.

    Attributes:
        model: its architecture: a name in `models`, or of a model with its default settings;
            null for the group `model`.
        data_fraction: the share of its training cases that it uses.
    """

    model: str | None = None
    data_fraction: float = setting(1.0, above=0, high=1)


@dataclass(frozen=True)
class Config:
    """Everything about a run, checked."""

    job: Job
    timeline: Timeline
    aggregation: Aggregation
    privacy: Privacy
    engine: Engine
    faults: Faults
    stragglers: float
    wait: float
    tracking: Tracking
    run: Run

    @classmethod
    def parse(cls, values: Mapping[str, Any], simulated: bool = True) -> "Config":
        """Check a composed configuration.

        Args:
            values: as composed.
            simulated: whether the data of all sites lie here, so that their names can be checked.

        Raises:
            ConfigError, DataError: one line that names the key, file or site.
        """
        known = [f.name for f in fields(cls) if f.name not in ("job", "stragglers", "wait")]
        known += ["scenario", "strategy", "model", "models", "sites", "learner", "seed"]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"{key}: no such key{closest(str(key), known)}; there are: {', '.join(known)}"
                )
        for group in ("scenario", "strategy", "model"):
            if not isinstance(values.get(group), Mapping):
                raise ConfigError(f"{group}: missing; give {group}=NAME")
        seed = checked_seed(values.get("seed", 0))
        scenario = SCENARIO.make(values["scenario"])
        strategy = STRATEGY.make(values["strategy"])
        arrivals = arrivals_of(values)
        timeline = timeline_of(arrivals, scenario.arrivals, seed)
        there = scenario.sites() if simulated else timeline.sites
        for site in timeline.sites:
            if site not in there:
                key = f"timeline.sites.{site}" if site in arrivals.sites else "timeline.stages"
                raise ConfigError(
                    f"{key}: {name_of(scenario)} has no site {site!r}{closest(site, there)}; "
                    f"there are: {', '.join(there)}"
                )
        models, roles = _roles(values, timeline, there if simulated else None, scenario, strategy)
        job = Job(
            scenario=scenario,
            strategy=strategy,
            models=models,
            roles=roles,
            learner=parse(Learner, values.get("learner") or {}, "learner"),
            seed=seed,
        )
        task = scenario.task
        if not any(task.scores[0] in task.scored(site) for site in timeline.sites):
            raise ConfigError(
                f"timeline.stages: none of {', '.join(timeline.sites)} can be scored by "
                f"{task.scores[0]}, by which runs are judged; let a site arrive that can"
            )
        engine = parse(Engine, values.get("engine") or {}, "engine")
        aggregation = AGGREGATION.make(values.get("aggregation") or {"name": "fedavg"})
        privacy = PRIVACY.make(values.get("privacy") or {"name": "none"})
        privacy.check(job.strategy, aggregation, timeline)
        faults = parse(Faults, values.get("faults") or {}, "faults")
        faults.check(timeline.sites, arrivals.stragglers)
        if timeline.centralised and any(map(faults.of, timeline.sites)):
            raise ConfigError("faults: a pool has no single site that could fail; take none")
        if engine.norm_bound is not None and name_of(privacy) != "none":
            raise ConfigError(
                f"engine.norm_bound: {name_of(privacy)} bounds every update by itself, and one "
                "site's update must not decide over another's; take null"
            )
        for site, stay in timeline.stays.items():
            if stay.ramp > 1 and not task.held_out:
                raise ConfigError(
                    f"timeline.sites.{site}.ramp: {task.words} cannot come in bit by bit; take 1"
                )
        for stage in range(len(timeline.stages)):
            trainers = timeline.trainers(job.strategy.plan(timeline, stage).cohort)
            if not trainers:
                raise ConfigError(
                    f"timeline: nobody trains in stage {stage + 1}; let a site arrive in it, get "
                    "more cases or be back, or change timeline.participation"
                )
            if engine.needed(len(trainers)) > len(trainers):
                raise ConfigError(
                    f"engine.quorum: {engine.quorum} sites cannot be reached in stage "
                    f"{stage + 1}, where {len(trainers)} train"
                )
            for model, count in Counter(roles[site].model for site in trainers).items():
                if aggregation.least > count:
                    which = f" {model}" if len(models) > 1 else ""
                    raise ConfigError(
                        f"aggregation: {name_of(aggregation)} needs {aggregation.least} sites, "
                        f"{count} train{which} in stage {stage + 1}; change timeline.stages or "
                        "aggregation"
                    )
        return cls(
            job=job,
            timeline=timeline,
            aggregation=aggregation,
            privacy=privacy,
            engine=engine,
            faults=faults,
            stragglers=arrivals.stragglers,
            wait=arrivals.wait if engine.name == DEPLOYED else 0.0,
            tracking=parse(Tracking, values.get("tracking") or {}, "tracking"),
            run=parse(Run, values.get("run") or {}, "run"),
        )

    @property
    def deployed(self) -> bool:
        """Whether hospitals are real ones, which may be there or not."""
        return self.engine.name == DEPLOYED

    def fingerprint(self) -> dict[str, Any]:
        """Return, by dotted keys, all that what is learned depends on, as JSON has it."""
        values = json.loads(self.job.to_json())
        for key in ("threads", "device", "compile"):
            del values["learner"][key]
        parts = {"timeline": asdict(self.timeline), "faults": asdict(self.faults)}
        parts["timeline"]["stragglers"] = self.stragglers
        parts |= {"aggregation": describe(self.aggregation), "privacy": describe(self.privacy)}
        return dict(flat(values | json.loads(json.dumps(parts))))

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


def _roles(
    values: Mapping[str, Any],
    timeline: Timeline,
    there: Sequence[str] | None,
    scenario: Scenario,
    strategy: Strategy,
) -> tuple[dict[str, Model], dict[str, Role]]:
    """Return the architectures of a run by name, and what each site is to do.

    An architecture's name is its key in `models`, or that of the model itself.

    Args:
        values: the composed configuration; `model`, `models` and `sites` are read.
        timeline: who takes part.
        there: who might; None where that is not known.
        scenario: says what is learned.
        strategy: says which architecture teaches.

    Raises:
        ConfigError: a site or a model that is not there, or what cannot be combined.
    """
    sites = {}
    for site, one in _group(values, "sites").items():
        if there is not None and site not in there:
            raise ConfigError(
                f"sites.{site}: no such site{closest(str(site), list(there))}; there are: "
                f"{', '.join(there)}"
            )
        sites[site] = parse(Site, one or {}, f"sites.{site}")
    default = MODEL.make(values["model"])
    known = {name: _named(name, one) for name, one in _group(values, "models").items()}
    known[name_of(default)] = default
    own = {site: sites.get(site, Site()).model or name_of(default) for site in timeline.sites}
    wanted = {name: f"sites.{site}.model" for site, name in own.items()}
    teaching = strategy.teaching
    if teaching is not None and teaching.architecture not in (OWN, LARGEST):
        wanted.setdefault(teaching.architecture, "strategy.teacher.model")
    for name, key in wanted.items():
        if name not in known:
            options = [*known, *(one for one in MODEL.available() if one not in known)]
            if name not in options:
                raise ConfigError(
                    f"{key}: there is no {name!r}{closest(name, options)}; there are: "
                    f"{', '.join(options)}"
                )
            known[name] = MODEL.make({"name": name})
    models = {name: model for name, model in known.items() if name in wanted}
    for model in models.values():
        check_model(model, scenario)
    trained = set(own.values())
    if timeline.centralised:
        if len(trained) > 1:
            raise ConfigError(
                f"timeline.centralised: a pool trains one model, the sites have "
                f"{', '.join(sorted(trained))}; give them one by sites"
            )
        own[POOL] = next(iter(trained))
    sizes = {}
    if len(models) > 1:
        if not scenario.task.mixed:
            raise ConfigError(
                f"sites: {scenario.task.words} must have one model at all sites, these have "
                f"{', '.join(models)}"
            )
        for name, model in models.items():
            network = scenario.task.build(model, timeline.sites)
            sizes[name] = sum(parameter.numel() for parameter in network.parameters())
    roles = {}
    for site, name in own.items():
        teacher = teaching.of(name, sizes) if teaching else None
        if teaching and teacher is not None and teacher not in trained and not teaching.file:
            raise ConfigError(
                f"strategy.teacher.model: no site trains {teacher}; let one do so by sites, or "
                "give a trained one by strategy.teacher.file"
            )
        roles[site] = Role(name, teacher, sites.get(site, Site()).data_fraction)
    if teaching and not any(role.teacher for role in roles.values()):
        raise ConfigError(
            "strategy.teacher.peers: false, but all sites have the teacher's architecture, so that "
            "nobody would be taught; give some another one by sites"
        )
    return models, roles


def _group(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key}: must be a group of settings, got {found!r}")
    return {str(name): one for name, one in found.items()}


def _named(name: str, values: Any) -> Model:
    """Return the architecture `models.name`."""
    key = f"models.{name}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,49}", str(name)) or name in MODEL.available():
        raise ConfigError(
            f"{key}: cannot name an architecture; take up to 50 letters, digits and . _ - that "
            "are not the name of a model"
        )
    return MODEL.make(values, key)
