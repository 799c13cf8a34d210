"""One architecture of a run, as the server sees it.

A run's weights are one flat mapping; where there are several architectures, the names of each
one's arrays begin with the architecture's name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fedcl.arrays import Arrays, load_file, mismatch, of_network, split, under
from fedcl.config.job import Job
from fedcl.errors import ConfigError, DataError, RunError
from fedcl.models.base import Model


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

    def read(self, path: Path) -> Arrays:
        """Return weights from a file, by the names that they have in the run.

        Args:
            path: safetensors, as a run leaves them in checkpoint/stage-N.safetensors: of this
                architecture, or of several with this one among them, by the same name.

        Raises:
            ConfigError: it cannot be read, or is of another architecture.
        """
        try:
            found = load_file(path)
        except RunError as error:
            raise ConfigError(f"strategy.teacher.file: {error}") from None
        begin = f"{self.name}/"
        found = under(begin, found) if any(key.startswith(begin) for key in found) else found
        problem = mismatch(found, of_network(self.network))
        if problem is not None:
            raise ConfigError(
                f"strategy.teacher.file: {path} holds no {self.name} as configured ({problem})"
            )
        return self.whole(found)


def architectures(job: Job, arrived: Sequence[str]) -> dict[str, Architecture]:
    """Return the architectures of a run by name, with networks for the sites arrived."""
    found = {}
    for name, model in job.models.items():
        network = job.network(name, arrived)
        sites = [site for site, role in job.roles.items() if role.model == name]
        local = frozenset(job.local(network))
        found[name] = Architecture(name, model, network, sites, job.prefix(name), local)
    return found


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
