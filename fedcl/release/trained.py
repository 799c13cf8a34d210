"""A model that a run has trained, ready to answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedcl import arrays
from fedcl.config.stored import stored
from fedcl.data.alone import Alone
from fedcl.data.grid import Array
from fedcl.data.resampling import restored
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.learning.scenario import Scenario
from fedcl.registry import MODEL, STRATEGY, name_of
from fedcl.release.described import scenario_of
from fedcl.server.begin import found_at, load, of_architecture
from fedcl.server.results import Results
from fedcl.settings import parse
from fedcl.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class Trained:
    """A model of a run, ready to answer.

    Attributes:
        network: with the weights of a stage.
        scenario: as which images are read.
        task: that the network has learned, in samples of the size that it has seen.
        site: as whose images they are read; empty for those of no site.
        learner: of the run: where to compute.
    """

    network: nn.Module
    scenario: Scenario
    task: Segmentation
    site: str
    learner: Learner

    def answer(self, alone: Alone, device: torch.device) -> Array:
        """Return the class of every voxel of an image, on its own grid, as it would be scored."""
        (found,) = self.task.predict(self.network, alone.case, device, self.learner.amp)
        (scan,) = alone.case.scans
        return np.asarray(restored(found, scan.own).max(0).indices.numpy())


def trained(run: Path, site: str | None, stage: int | None, model: str | None) -> Trained:
    """Return the model of a run.

    Args:
        run: its folder.
        site: as whose images others are read, and padded; None for the largest samples of all.
        stage: after which, from 1; None for the last.
        model: which of several architectures; None for that of the site, or the default one.

    Raises:
        ConfigError: there is none, or it is not for images.
    """
    values = stored(run, "MODEL")
    results = Results.read(run)
    if results is None:
        raise ConfigError(f"MODEL: {run} has no results.json: the run has not ended")
    scenario = scenario_of(values, results)
    task = scenario.task
    if not isinstance(task, Segmentation):
        raise ConfigError(f"MODEL: {name_of(scenario)} holds {task.words}; see fedcl export")
    if type(scenario).alone is Scenario.alone:
        raise ConfigError(f"MODEL: {name_of(scenario)} reads no image files of its own")
    if site is not None and site not in results.sites:
        raise ConfigError(f"--site: there is no {site!r}; there are: {', '.join(results.sites)}")
    own = [name for name, one in results.architectures.items() if site in one.sites]
    name = model or (own[0] if own else next(iter(results.architectures)))
    known = {name_of(MODEL.make(values["model"])): values["model"], **(values.get("models") or {})}
    if name not in known or name not in results.architectures:
        there = ", ".join(results.architectures)
        raise ConfigError(f"--model: there is no {name!r}; there are: {there}")
    made = {one: MODEL.make(known[one]) for one in results.architectures}
    fitted = _padded(task.fitted([*made.values()]), results.samples, site)
    network = fitted.build(made[name], results.sites)
    kept = STRATEGY.make(values["strategy"]).partition(network, 0).local | task.local(network)
    if kept:
        raise ConfigError(
            f"MODEL: the hospitals of {run} keep {', '.join(sorted(kept)[:3])} to themselves; "
            "what lies here in their place has seen no image"
        )
    file = found_at(str(run), "MODEL")
    if stage is not None:
        file = run / "checkpoint" / f"stage-{stage}.safetensors"
        if not file.is_file():
            raise ConfigError(f"--stage: {run} has no {file.name}")
    weights = of_architecture(name, load(file, "MODEL"))
    problem = arrays.mismatch(weights, arrays.of_network(network))
    if problem is not None:
        raise ConfigError(f"MODEL: {file} is not all of {name} ({problem})")
    arrays.into_network(network, weights)
    learner = parse(Learner, values["learner"], "learner")
    return Trained(network.eval(), scenario, fitted, site or "", learner)


def _padded(
    task: Segmentation, samples: Mapping[str, Sequence[int]], site: str | None
) -> Segmentation:
    """Return the task with samples as a site has them, or the largest of all sites."""
    if not samples:
        return task
    shapes = [shape for name, shape in samples.items() if site in (None, name)]
    return replace(task, least=tuple(map(max, zip(*(shape[1:] for shape in shapes), strict=True))))
