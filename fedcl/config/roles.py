"""Which architectures a run has, and which of them each site trains and is taught by."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedcl.config.groups import Site, named_groups
from fedcl.config.job import Role, check_model
from fedcl.errors import ConfigError, some_of
from fedcl.learning.scenario import Scenario
from fedcl.learning.strategy import LARGEST, OWN, Strategy
from fedcl.models.base import Model
from fedcl.registry import MODEL, name_of
from fedcl.settings import closest
from fedcl.timeline import POOL, Timeline


@dataclass(frozen=True)
class Roles:
    """Finds architectures and roles in a configuration.

    Attributes:
        values: the composed configuration; `model` and `models` are read.
        sites: what is particular to single sites.
        timeline: who takes part.
        there: who might; None where that is not known.
        scenario: says what is learned.
        strategy: says which architecture teaches.
    """

    values: Mapping[str, Any]
    sites: Mapping[str, Site]
    timeline: Timeline
    there: Sequence[str] | None
    scenario: Scenario
    strategy: Strategy

    def find(self) -> tuple[dict[str, Model], dict[str, Role]]:
        """Return the architectures of the run by name, and what each site is to do.

        An architecture's name is its key in `models`, or that of the model itself.

        Raises:
            ConfigError: a site or a model that is not there, or what cannot be combined.
        """
        self._check_sites()
        default = MODEL.make(self.values["model"])
        own = {site: self._site(site).model or name_of(default) for site in self.timeline.sites}
        models = self._models(default, own)
        if self.timeline.centralised:
            own[POOL] = self._of_the_pool(set(own.values()))
        sizes = self._sizes(models)
        return models, {site: self._role(site, name, own, sizes) for site, name in own.items()}

    def _site(self, site: str) -> Site:
        return self.sites.get(site, Site())

    def _check_sites(self) -> None:
        """Check that what is said of single sites is said of sites there are."""
        for site in self.sites:
            if self.there is not None and site not in self.there:
                raise ConfigError(
                    f"sites.{site}: no such site{closest(site, list(self.there))}; there are: "
                    f"{some_of(self.there)}"
                )

    def _models(self, default: Model, own: Mapping[str, str]) -> dict[str, Model]:
        """Return the architectures that sites train or are taught by."""
        listed = named_groups(self.values, "models").items()
        known = {name: _named(name, one) for name, one in listed}
        known[name_of(default)] = default
        wanted = {name: f"sites.{site}.model" for site, name in own.items()}
        teaching = self.strategy.teaching
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
            check_model(model, self.scenario)
        return models

    def _of_the_pool(self, trained: set[str]) -> str:
        """Return the one architecture that a pool trains."""
        if len(trained) > 1:
            raise ConfigError(
                f"timeline.centralised: a pool trains one model, the sites have "
                f"{', '.join(sorted(trained))}; give them one by sites"
            )
        return next(iter(trained))

    def _sizes(self, models: Mapping[str, Model]) -> dict[str, int]:
        """Return the parameters of each architecture, where there are several."""
        if len(models) == 1:
            return {}
        task = self.scenario.task
        if not task.mixed:
            raise ConfigError(
                f"sites: {task.words} must have one model at all sites, these have "
                f"{', '.join(models)}"
            )
        return {
            name: sum(one.numel() for one in task.build(model, self.timeline.sites).parameters())
            for name, model in models.items()
        }

    def _role(self, site: str, name: str, own: Mapping[str, str], sizes: Mapping[str, int]) -> Role:
        """Return what a site is to do that trains the architecture `name`."""
        teaching = self.strategy.teaching
        teacher = teaching.of(name, sizes) if teaching else None
        if teaching and teacher is not None and teacher not in own.values() and not teaching.file:
            raise ConfigError(
                f"strategy.teacher.model: no site trains {teacher}; let one do so by sites, or "
                "give a trained one by strategy.teacher.file"
            )
        line = self.timeline
        first = 1.0 if site == POOL else line.share(site, line.arrival(site))
        return Role(name, teacher, self._site(site).data_fraction, first)


def _named(name: str, values: Any) -> Model:
    """Return the architecture `models.name`."""
    key = f"models.{name}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,49}", str(name)) or name in MODEL.available():
        raise ConfigError(
            f"{key}: cannot name an architecture; take up to 50 letters, digits and . _ - that "
            "are not the name of a model"
        )
    return MODEL.make(values, key)
