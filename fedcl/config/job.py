"""What a hospital is told of a run: names and numbers, no path and no code."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from fedcl.augment.base import Augmentation
from fedcl.config.groups import checked_seed
from fedcl.data.samples import Change
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.learning.scenario import Scenario
from fedcl.learning.strategy import Strategy, declared
from fedcl.models.base import Model
from fedcl.optimisers.base import Optimiser
from fedcl.privacy.base import Privacy
from fedcl.registry import (
    AUGMENT,
    MODEL,
    OPTIMISER,
    PRIVACY,
    SCENARIO,
    SCHEDULE,
    STRATEGY,
    Kind,
    describe,
    name_of,
)
from fedcl.schedules.base import Schedule
from fedcl.seeding import seeded
from fedcl.settings import parse, setting, travelling
from fedcl.tasks.base import Task


@dataclass
class Role:
    """What one site is to do.

    Attributes:
        model: which of the architectures it trains.
        teacher: of which architecture its teacher is; None if it never has one.
        data_fraction: the share of its training cases that it uses.
        first_share: the share of these that has come by its first stage; see `Stay.ramp`.
    """

    model: str
    teacher: str | None
    data_fraction: float = setting(1.0, above=0, high=1)
    first_share: float = setting(1.0, above=0, high=1)

    @property
    def models(self) -> list[str]:
        """The architectures that the site has to do with."""
        return list(dict.fromkeys([self.model] + ([self.teacher] if self.teacher else [])))


PARTS = ("scenario", "strategy", "learner", "augment", "optimiser", "schedule", "seed", "privacy")


@dataclass(frozen=True)
class Job:
    """A run as its hospitals know it.

    Attributes:
        scenario, strategy: what is learned, and how.
        models: the architectures, by name.
        roles: what each site is to do, by its name.
        learner: the budget of a round.
        augment: how training images are varied.
        optimiser, schedule: how gradients are followed.
        seed: of everything random.
        privacy: the rule for updates or reports; hospitals are told of it where they are to keep
            it themselves.
    """

    scenario: Scenario
    strategy: Strategy
    models: Mapping[str, Model]
    roles: Mapping[str, Role]
    learner: Learner
    augment: Augmentation
    optimiser: Optimiser
    schedule: Schedule
    seed: int
    privacy: Privacy = field(default_factory=Privacy)

    def __post_init__(self) -> None:
        """Check that the parts fit one another.

        Raises:
            ConfigError: they do not.
        """
        for site, role in self.roles.items():
            if not set(role.models) <= self.models.keys():
                raise ConfigError(f"roles.{site}: of {role.models} some are not among the models")
        task = self.task
        for model in self.models.values():
            check_model(model, self.scenario)
        _check_kind(
            STRATEGY,
            self.strategy,
            lambda one: isinstance(task, one().requirements.task),
            self.scenario,
        )
        needs = self.strategy.requirements
        for model in self.models.values():
            if needs.features and type(model).watched is Model.watched:
                raise ConfigError(
                    f"{MODEL.key}: {name_of(model)} names no layers (`watched`), and strategy "
                    f"{name_of(self.strategy)} compares what they give"
                )
            self.strategy.check(task, model)
        if type(self.strategy).distil is not Strategy.distil and self.strategy.teaching is None:
            raise ConfigError(
                f"{STRATEGY.key}: {name_of(self.strategy)} has `distil`, which is asked for only "
                "where a model teaches, and no `teaching`: inherit from Distilling "
                "(strategies.parts.distillation), or say which model teaches"
            )
        if self.learner.keep != "last" and not task.held_out:
            raise ConfigError(
                f"learner.keep: {task.words} has no cases to validate on but those it is trained "
                "on; take learner.keep=last"
            )
        if name_of(self.augment) != "none" and not task.varied:
            raise ConfigError(
                f"augment: {task.words} are not varied; take augment=none, not "
                f"{name_of(self.augment)}"
            )
        least = needs.batch
        if self.learner.batch_size < least:
            raise ConfigError(
                f"learner.batch_size: {name_of(self.strategy)} compares the samples of a batch and "
                f"needs at least {least}, got {self.learner.batch_size}"
            )

    @cached_property
    def task(self) -> Task:
        """What is learned, in samples that all the models can take."""
        return self.scenario.task.fitted(list(self.models.values()))

    @cached_property
    def change(self) -> Change | None:
        """What is made of every training sample; None where they stay as they are."""
        return self.augment.change(self.task.dims)

    def network(self, model: str, sites: Sequence[str]) -> nn.Module:
        """Make an architecture's network, with the initial weights that `seed` gives everywhere.

        Args:
            model: its name.
            sites: those that have arrived: with them what it has to know may grow.
        """
        with seeded("model", self.seed):
            return self.task.build(self.models[model], sites)

    def losses(self, model: str) -> frozenset[str]:
        """Return the names of the loss terms that training an architecture can have."""
        return declared(self.task, self.strategy, self.models[model])

    def prefix(self, model: str) -> str:
        """Return how the names of an architecture's arrays begin where there are several."""
        return f"{model}/" if len(self.models) > 1 else ""

    def local(self, network: nn.Module) -> frozenset[str]:
        """Return the weight arrays of `network` that stay at the hospital, never averaged."""
        kept = self.strategy.partition(network, 0).local
        return kept | self.task.local(network)

    def to_json(self) -> str:
        """Return names and numbers alone, as JSON."""
        return json.dumps(
            {
                "scenario": describe(self.scenario),
                "strategy": describe(self.strategy),
                "models": {name: describe(model) for name, model in self.models.items()},
                "roles": {site: asdict(role) for site, role in self.roles.items()},
                "learner": travelling(self.learner),
                "augment": describe(self.augment),
                "optimiser": describe(self.optimiser),
                "schedule": describe(self.schedule),
                "seed": self.seed,
                "privacy": describe(self.privacy) if self.privacy.at_hospitals else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read and check what `to_json` wrote.

        Raises:
            ConfigError: anything unknown or out of bounds.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            parts = {key: values[key] for key in PARTS}
            models, roles = dict(values["models"]), dict(values["roles"])
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise ConfigError(f"job: not one of this version of fedcl ({error!r})") from None
        return cls(
            scenario=SCENARIO.make(parts["scenario"]),
            strategy=STRATEGY.make(parts["strategy"]),
            models={name: MODEL.make(one) for name, one in models.items()},
            roles=_roles(roles),
            learner=parse(Learner, parts["learner"], "learner"),
            augment=AUGMENT.make(parts["augment"]),
            optimiser=OPTIMISER.make(parts["optimiser"]),
            schedule=SCHEDULE.make(parts["schedule"]),
            seed=checked_seed(parts["seed"]),
            privacy=PRIVACY.make(parts["privacy"] or {"name": "none"}),
        )


def _roles(values: Mapping[str, Any]) -> dict[str, Role]:
    """Return the roles by site; of many sites most have the same, which is parsed once."""
    known: dict[str, Role] = {}
    roles = {}
    for site, one in values.items():
        text = json.dumps(one)
        known[text] = roles[site] = known.get(text) or parse(Role, one, f"roles.{site}")
    return roles


def check_model(model: Model, scenario: Scenario) -> None:
    """Raise `ConfigError` where a model is not for what a scenario holds."""
    _check_kind(MODEL, model, lambda one: issubclass(one, scenario.task.models), scenario)


def _check_kind(
    kind: Kind, plugin: object, fits: Callable[[Any], bool], scenario: Scenario
) -> None:
    if not fits(type(plugin)):
        there = kind.fitting(fits)
        raise ConfigError(
            f"{kind.key}: {name_of(plugin)} is not for {scenario.task.words}, which scenario "
            f"{name_of(scenario)} holds; there are: {', '.join(there)}"
        )
