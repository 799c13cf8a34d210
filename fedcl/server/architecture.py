"""One architecture of a run, as the server sees it.

A run's weights are one flat mapping; where there are several architectures, the names of each
one's arrays begin with the architecture's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedcl.arrays import Arrays, split, under
from fedcl.config.job import Job
from fedcl.config.schema import Config
from fedcl.errors import ConfigError, DataError
from fedcl.models.base import Model
from fedcl.registry import name_of


@dataclass(frozen=True)
class Architecture:
    """A model, who trains it, and where its arrays are.

    Attributes:
        name: of the architecture.
        model: its settings.
        network: made for a stage, on the CPU; its weights are nobody's, to be overwritten.
        sites: those that train it, in order of arrival; none, and it only teaches.
        prefix: how the names of its arrays begin.
        local: its arrays that stay at the sites.
    """

    name: str
    model: Model
    network: nn.Module
    sites: list[str]
    prefix: str
    local: frozenset[str]

    @property
    def key(self) -> str:
        """Where its settings stand in the configuration."""
        return "model" if self.name == name_of(self.model) else f"models.{self.name}"

    @property
    def parameters(self) -> set[str]:
        """The names of its arrays that are trained; the others are statistics and counters."""
        return {name for name, _ in self.network.named_parameters()}

    def part(self, whole: Mapping[str, np.ndarray]) -> Arrays:
        """Return its part of a run's arrays."""
        return under(self.prefix, whole)

    def whole(self, part: Mapping[str, np.ndarray]) -> Arrays:
        """Return arrays of its own by the names that they have in the run."""
        return {self.prefix + key: value for key, value in part.items()}

    def shared(self, whole: Mapping[str, np.ndarray]) -> Arrays:
        """Return its part of a run's weights, less what stays at the sites."""
        return split(self.part(whole), self.local)[0]


def architectures(job: Job, arrived: Sequence[str]) -> dict[str, Architecture]:
    """Return the architectures of a run by name, with networks for the sites arrived."""
    found = {}
    for name, model in job.models.items():
        network = job.network(name, arrived)
        sites = [site for site, role in job.roles.items() if role.model == name]
        local = frozenset(job.local(network))
        found[name] = Architecture(name, model, network, sites, job.prefix(name), local)
    return found


def check_local(config: Config, one: Architecture) -> None:
    """Raise `ConfigError` where settings do not go with what stays at hospitals, or does not."""
    if not one.local:
        if not config.job.task.shared:
            raise ConfigError(
                "scenario.shared: false, but nothing of this model stays at a site: patients "
                "would overwrite one another; take model=diner, model.latent=16 or "
                "strategy=individual"
            )
        return
    keep = f"hospitals keep {', '.join(sorted(one.local)[:3])} to themselves"
    if config.timeline.centralised:
        raise ConfigError(
            f"timeline.centralised: {keep}, which a pool has no use for; change the strategy or "
            "scenario.shared"
        )
    if config.job.learner.keep == "best_round":
        raise ConfigError(
            f"learner.keep: best_round chooses among global models, and {keep}; take last or best"
        )
    for key in ("on_refusal", "name"):
        if getattr(config.release, key) is not None:
            raise ConfigError(f"release.{key}: it is about global models, and {keep}; take null")
    if one.model.weights is not None:
        raise ConfigError(
            f"{one.key}.weights: {keep} and would begin without them; take another strategy"
        )


def cost(network: nn.Module, inputs: torch.Tensor, site: str) -> tuple[int, int]:
    """Return the parameters of a network, and its multiply-accumulates for `inputs`.

    Args:
        network: any.
        inputs: a batch of one.
        site: whose they are like.

    Raises:
        DataError: the network cannot take them; names the site.
    """
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(inputs)
    except Exception as error:  # a hospital has said the shape: networks fail in any way at it
        shape, reason = tuple(inputs.shape[1:]), (str(error).splitlines() or [repr(error)])[0]
        raise DataError(
            f"site {site}: the model cannot take samples of shape {shape} ({reason})"
        ) from None
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters, counter.get_total_flops() // 2  # it counts multiplications and additions
