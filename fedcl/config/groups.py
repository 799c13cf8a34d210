"""The groups of the configuration that no plug-in has a say in; checked without torch."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fedcl.config.faults import Faults
from fedcl.config.timeline import Arrivals, arrivals_of
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.settings import closest, parse, setting, without_effect
from fedcl.tracking.names import NAME

DEPLOYED = "superlink"
"""The engine of a deployed run."""
PLUGINS = (
    "scenario", "strategy", "model", "models", "aggregation", "privacy", "augment", "optimiser",
    "schedule",
)  # fmt: skip
"""The groups whose settings are those of plug-ins."""


@dataclass
class Engine:
    """Where the hospitals of a simulation run.

    Attributes:
        name: "inprocess" (one process, for debugging) or "ray"; "superlink" is a deployed run.
        workers: processes that train at the same time; null for as many as fit.
        num_cpus, num_gpus: share of a CPU or GPU that each worker takes; num_gpus=auto: so many
            share a GPU as its memory has room for, which the first round of training shows.
        address: an existing Ray cluster to join; null starts one of our own.
        quorum: least updates per round, as a number of sites (integer) or as a share of
            the round's cohort (a fraction such as 0.5 or 1.0).
        timeout: seconds until a site that has not answered costs its round.
        patience: of a deployed run: nobody who has answered before, or failed to, is waited for
            longer than so many times the longest that any site has taken for the like, or three
            minutes if that is more; null: until the timeout.
        silent_rounds: of a deployed run: a site that has not answered in so many rounds in a row
            is left out until its SuperNode is started again; null: it is asked in every round.
        norm_bound: an update is refused whose change of the weights is longer than so many
            times the round's median, of three updates at least; null for no bound.
        largest_change: an update is refused whose change of the weights is more than so many
            times as large as the weights, as root mean squares; null for no bound.
        largest_share: the most that one of several sites weighs in a round, by its samples; the
            only one that learns is not bounded. 1 for no bound.
        collapse: a round is taken back, and a site left out for the rest of the stage whose change
            of the weights is by far the largest, where validation fails at every site or falls
            below this share of what it was; null for never.
    """

    name: str = setting("ray", choices=("inprocess", "ray", DEPLOYED), effect=False)
    workers: int | None = setting(None, low=1, effect=False)
    num_cpus: float = setting(1.0, low=0.001, effect=False)
    num_gpus: Any = setting(0.0, effect=False)
    address: str | None = setting(None, effect=False)
    quorum: Any = 0.5
    timeout: float = setting(3600.0, above=0)
    patience: float | None = setting(10.0, low=1)
    silent_rounds: int | None = setting(3, low=1)
    norm_bound: float | None = setting(None, low=1)
    largest_change: float | None = setting(1000.0, above=0)
    largest_share: float = setting(0.9, above=0, high=1)
    collapse: float | None = setting(0.1, above=0, high=1)

    def __post_init__(self) -> None:
        """Check the quorum, which may be a count or a share."""
        ok = isinstance(self.quorum, int | float) and not isinstance(self.quorum, bool)
        if not ok or self.quorum <= 0 or (isinstance(self.quorum, float) and self.quorum > 1):
            raise ConfigError(
                "engine.quorum: must be a number of sites (1, 2, ...) or a share of the "
                f"cohort in (0, 1], got {self.quorum!r}"
            )
        share = self.num_gpus
        number = isinstance(share, int | float) and not isinstance(share, bool)
        if share != "auto" and not (number and share >= 0):
            raise ConfigError(
                f"engine.num_gpus: must be auto or a number of at least 0, got {share!r}"
            )

    def needed(self, cohort: int) -> int:
        """Return how many of `cohort` sites must deliver an update."""
        if isinstance(self.quorum, int):
            return self.quorum
        return math.ceil(self.quorum * cohort - 1e-9)  # 0.28 * 25 is a little more than 7


DECIDING = tuple(f.name for f in fields(Engine) if f.name not in without_effect(Engine))
"""The settings of the engine that decide whose updates make a round."""


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
class Release:
    """When a stage's model is put to use, and where it is kept.

    Attributes:
        on_refusal: what follows where the model of a stage is worse than the one in use at a
            hospital of an earlier stage, on its validation cases: "keep" goes on from the one in
            use, as if the stage had taught nothing, "stop" ends the run, "warn" only says so. None:
            no model is judged, and that of every stage is put to use.
        margin: loss of score at a hospital that is put up with.
        alpha: the chance of refusing a model that loses no more than that anywhere.
        name: under which every stage's model is kept in MLflow's registry of models; None: it is
            not.
        licence: of the data that the models were trained on, for their cards.
        intended_use: what the models are for, likewise.
    """

    on_refusal: str | None = setting(None, choices=(None, "keep", "stop", "warn"))
    margin: float = setting(0.02, low=0)
    alpha: float = setting(0.05, above=0, high=0.5)
    name: str | None = setting(None, effect=False)
    licence: str | None = setting(None, effect=False)
    intended_use: str | None = setting(None, effect=False)

    def __post_init__(self) -> None:
        """Check the name, which MLflow and a search in it must take."""
        if self.name is not None and not re.fullmatch(NAME, self.name):
            raise ConfigError(
                f"release.name: {self.name!r} cannot name a model; take up to 100 letters, digits, "
                "spaces and . _ -, a letter or digit first"
            )


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
        samples: how many training samples it is known to have: those that it claims above that
            do not count. Null: as many as it says.
    """

    model: str | None = None
    data_fraction: float = setting(1.0, above=0, high=1)
    samples: int | None = setting(None, low=1)


@dataclass(frozen=True)
class Groups:
    """What a configuration says but for its plug-ins."""

    timeline: Arrivals
    faults: Faults
    learner: Learner
    engine: Engine
    tracking: Tracking
    release: Release
    run: Run
    sites: dict[str, Site]
    seed: int

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> "Groups":
        """Check these groups of a composed configuration.

        Raises:
            ConfigError: one line that names the key.
        """
        known = [*(field.name for field in fields(cls)), *PLUGINS]
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"{key}: no such key{closest(str(key), known)}; there are: {', '.join(known)}"
                )
        for key in ("scenario", "strategy", "model"):
            if not isinstance(values.get(key), Mapping):
                raise ConfigError(f"{key}: missing; give {key}=NAME")
        sites = named_groups(values, "sites").items()
        return cls(
            timeline=arrivals_of(values),
            faults=parse(Faults, values.get("faults") or {}, "faults"),
            learner=parse(Learner, values.get("learner") or {}, "learner"),
            engine=parse(Engine, values.get("engine") or {}, "engine"),
            tracking=parse(Tracking, values.get("tracking") or {}, "tracking"),
            release=parse(Release, values.get("release") or {}, "release"),
            run=parse(Run, values.get("run") or {}, "run"),
            sites={site: parse(Site, one or {}, f"sites.{site}") for site, one in sites},
            seed=checked_seed(values.get("seed", 0)),
        )


def checked_seed(value: Any) -> int:
    """Return a seed as configured.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"seed: must be a whole number >= 0, got {value!r}")
    return value


def named_groups(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a group of groups by their names; empty where there is none.

    Raises:
        ConfigError: it is no group.
    """
    found = values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{key}: must be a group of settings, got {found!r}")
    return {str(name): one for name, one in found.items()}
