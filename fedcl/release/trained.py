"""A model that a run has trained, or that a bundle holds, ready to answer."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fedcl import arrays
from fedcl.config.stored import stored
from fedcl.data.alone import Alone
from fedcl.data.grid import Array
from fedcl.data.preparing import MOST
from fedcl.data.resampling import restored
from fedcl.errors import ConfigError, DataError
from fedcl.learning.learner import Learner
from fedcl.learning.scenario import Scenario
from fedcl.models.base import ImageModel
from fedcl.registry import MODEL, SCENARIO, STRATEGY
from fedcl.release.about import LONGEST, About
from fedcl.server.begin import found_at, load, of_architecture
from fedcl.server.results import Results
from fedcl.settings import parse
from fedcl.tasks.segmentation import Segmentation

METADATA, WEIGHTS = "configs/metadata.json", "models/model.pt"
"""Where a MONAI bundle says what it is, and has its weights."""


@dataclass(frozen=True)
class Trained:
    """A model of a run, ready to answer.

    Attributes:
        network: with the weights of a stage.
        answering: what answers with it: the network itself, or what the strategy makes of it.
        scenario: as which images are read.
        task: that the network has learned, in samples of the size that it has seen.
        site: as whose images they are read; empty for those of no site.
        learner: of the run: where to compute.
        model: by which the network was built.
        architecture: its name.
        about: the run that it is of.
    """

    network: nn.Module
    answering: nn.Module
    scenario: Scenario
    task: Segmentation
    site: str
    learner: Learner
    model: ImageModel
    architecture: str
    about: About

    @property
    def reads(self) -> bool:
        """Whether its scenario reads image files, and says how they are read and prepared."""
        kind = type(self.scenario)
        return kind.alone is Scenario.alone and kind.reading is not Scenario.reading

    def answer(self, alone: Alone, device: torch.device) -> Array:
        """Return the class of every voxel of an image, on its own grid, as it would be scored.

        Raises:
            DataError: the model gives no numbers, of which no mask can be made.
        """
        (found,) = self.task.predict(self.answering, alone.case, device, self.learner.amp)
        if not found.isfinite().all():
            raise DataError("the model's answers are not finite; are the intensities in its range?")
        (scan,) = alone.case.scans
        return np.asarray(restored(found, scan.own).max(0).indices.numpy())


def trained(run: Path, site: str | None, stage: int | None, model: str | None) -> Trained:
    """Return the model of a run, or of a bundle that fedcl has written.

    Args:
        run: its folder.
        site: as whose images others are read, and padded; None for the largest samples of all, or
            for the site that the bundle is for.
        stage: after which, from 1; None for the last.
        model: which of several architectures; None for that of the site, or the default one.

    Raises:
        ConfigError: there is none, or it is not for images.
    """
    if (run / METADATA).is_file():
        if stage is not None:
            raise ConfigError("--stage: a bundle holds the model of one stage, leave it out")
        about = About.read(run)
        return _answering(
            assembled(about, run / WEIGHTS, site or about.site, model or about.architecture)
        )
    values = stored(run, "MODEL")
    results = Results.read(run)
    if results is None:
        raise ConfigError(f"MODEL: {run} has no results.json: the run has not ended")
    about = About.of(values, results)
    file = found_at(str(run), "MODEL")
    if stage is not None:
        file = run / "checkpoint" / f"stage-{stage}.safetensors"
        if not file.is_file():
            raise ConfigError(f"--stage: {run} has no {file.name}")
    return _answering(assembled(about, file, site or "", model or ""))


def _answering(one: Trained) -> Trained:
    """Return a model that can be asked about image files.

    Raises:
        ConfigError: its scenario reads none.
    """
    kind = type(one.scenario)
    if kind.alone is Scenario.alone and kind.reading is Scenario.reading:
        name = one.about.scenario["name"]
        raise ConfigError(f"MODEL: {name} reads no image files of its own")
    return one


def assembled(about: About, file: Path, site: str = "", architecture: str = "") -> Trained:
    """Return a model from what is known of it and a file of weights.

    Args:
        about: the run that it is of.
        file: of the weights of one architecture, or of all.
        site: as whose images others are read, and padded; empty for the largest samples of all.
        architecture: empty for that of the site, or the default one.

    Raises:
        ConfigError: there is none, or it is not for images.
    """
    scenario = SCENARIO.make(about.scenario)
    task, called = scenario.task, about.scenario["name"]
    if not isinstance(task, Segmentation):
        raise ConfigError(
            f"MODEL: {called} holds {task.words}, not images; fedcl export writes them as .nii.gz"
        )
    if site and site not in about.sites:
        raise ConfigError(f"--site: there is no {site!r}; there are: {', '.join(about.sites)}")
    own = [name for name, sites in about.trains.items() if site in sites]
    name = architecture or (own[0] if own else next(iter(about.trains)))
    there = [about.architecture] if about.architecture else list(about.trains)
    if name not in about.models or name not in there:
        raise ConfigError(f"--model: there is no {name!r}; there are: {', '.join(there)}")
    made = {one: MODEL.make(about.models[one]) for one in about.trains}
    if not all(isinstance(one, ImageModel) for one in made.values()):
        raise ConfigError("MODEL: it has an architecture that is none for images")
    fitted = _padded(task.fitted([*made.values()]), about.samples, site)
    smallest = fitted.framing.whole((1,) * fitted.dims)
    if max(smallest) > LONGEST or math.prod(smallest) > MOST:
        raise ConfigError(f"MODEL: {name} needs images of {smallest} voxels or more")
    read = cache(lambda: of_architecture(name, load(file, "MODEL")))
    build = partial(fitted.build, made[name], about.sites)
    if about.architecture:  # of a bundle, which may come from anybody
        _check_fit(name, file, read(), build)
    network = build()
    strategy = STRATEGY.make(about.strategy)
    kept = strategy.partition(network, 0).local | task.local(network)
    if kept:
        raise ConfigError(
            f"MODEL: the hospitals of {file.parent.parent} keep {', '.join(sorted(kept)[:3])} to "
            "themselves; what lies here in their place has seen no image"
        )
    weights = read()
    problem = arrays.mismatch(weights, arrays.of_network(network))
    if problem is not None:
        raise ConfigError(f"MODEL: {file} is not all of {name} ({problem})")
    arrays.into_network(network, weights)
    learner = parse(Learner, about.learner, "learner")
    answering = strategy.answering(network.eval(), fitted).eval()
    return Trained(network, answering, scenario, fitted, site, learner, made[name], name, about)


def _check_fit(
    name: str, file: Path, weights: arrays.Arrays, build: Callable[[], nn.Module]
) -> None:
    """Raise a ConfigError where a network is not of the shape of its weights; nothing is allocated.

    Settings from elsewhere may describe one that no memory has room for.
    """
    try:
        with torch.device("meta"):
            wanted = build().state_dict()
    except NotImplementedError:  # one that looks at its values as it is built
        return
    for key, value in wanted.items():
        if key in weights and weights[key].shape != tuple(value.shape):
            problem = f"{key} has shape {weights[key].shape}, not {tuple(value.shape)}"
            raise ConfigError(f"MODEL: {file} is not all of {name} ({problem})")
    absent = sorted(wanted.keys() - weights.keys())
    if absent:
        raise ConfigError(f"MODEL: {file} is not all of {name} ({absent[0]} is not in it)")


def _padded(task: Segmentation, samples: Mapping[str, Sequence[int]], site: str) -> Segmentation:
    """Return the task with samples as a site has them, or the largest of all sites."""
    if not samples:
        return task
    if any(len(shape) != task.dims + 1 for shape in samples.values()):
        raise ConfigError(f"MODEL: its samples are no {task.dims}-D images")
    shapes = [shape for name, shape in samples.items() if site in ("", name)]
    return replace(task, least=tuple(map(max, zip(*(shape[1:] for shape in shapes), strict=True))))
