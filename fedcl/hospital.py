"""One hospital at work: its data, its state, its networks, and what is cached of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fedcl import arrays, learner
from fedcl.config import Job
from fedcl.errors import DataError, RunError
from fedcl.messages import Call
from fedcl.plugins import SCENARIO, describe
from fedcl.scores import SCORES, case_scores
from fedcl.seeding import seeded, torch_rng
from fedcl.step import watch
from sites.base import SiteData, Slices

Places = Mapping[str, Path | None]


@dataclass(frozen=True)
class Hospital:
    """One site and the job it was given.

    Attributes:
        site: its name.
        places: the sites whose data it holds and their folders: itself alone, or all of
            them for the pool of a centralised simulation.
        state_path: folder of its own state.
        text: the job, as it was sent.
    """

    site: str
    places: Places
    state_path: Path | None
    text: str

    @classmethod
    def of(cls, node: Mapping[str, Any], text: str) -> "Hospital":
        """Join a node's own configuration with the job it was sent.

        `data-path` is one folder; a pool's `pool` is JSON: {site: folder}.
        """
        site = str(node["site"])
        places = json.loads(str(node.get("pool", "null"))) or {site: node.get("data-path")}
        state = Path(str(node["state-path"])) if "state-path" in node else None
        folders = {name: Path(str(path)) if path else None for name, path in places.items()}
        return cls(site, folders, state, text)

    @property
    def job(self) -> Job:
        """The job, checked."""
        return Job.from_json(self.text)

    @property
    def local(self) -> frozenset[str]:
        """The weight arrays that stay here."""
        return _local(self.text)

    # --- data ------------------------------------------------------------------------

    def data(self, name: str) -> SiteData:
        """Return the cases of one of its places, read once per process.

        Raises:
            DataError: the data cannot be used.
        """
        job = self.job
        return _data(json.dumps(describe(job.scenario)), name, self.places[name], job.seed)

    def slices(self, names: Sequence[str]) -> Slices:
        """Return the training slices of some of its places, stacked once per process.

        Raises:
            RunError: it was asked for slices of another site, or of none.
        """
        others = [name for name in names if name not in self.places]
        if others or not names:
            raise RunError(f"site {self.site} has no slices of {', '.join(others) or 'no site'}")
        scenario = json.dumps(describe(self.job.scenario))
        folders = tuple((name, self.places[name]) for name in names)
        return _slices(scenario, folders, self.job.seed, learner.device_of(self.job.learner))

    def select(
        self, learning: Sequence[str], rehearsing: Sequence[str], state: arrays.Arrays
    ) -> tuple[Slices, dict[str, Slices]]:
        """Return the slices to train on in a round, and those to keep for later stages.

        Raises:
            RunError: nothing was kept of a site to rehearse.
        """
        device, buffers = learner.device_of(self.job.learner), {}
        for site in {key.split("/")[1] for key in state if key.startswith("buffer/")}:
            kept = arrays.under(f"buffer/{site}/", state)
            images, labels = (torch.from_numpy(kept[k]).to(device) for k in ("images", "labels"))
            buffers[site] = Slices(images, labels)
        missing = [site for site in rehearsing if site not in buffers]
        if missing:
            raise RunError(f"site {self.site}: nothing was kept of {', '.join(missing)}")
        parts = [self.slices(learning)] if learning else []
        slices = Slices.joined([*parts, *(buffers[site] for site in rehearsing)])
        for site in learning:
            rng = torch_rng("buffer", self.job.seed, site)
            buffer = self.job.strategy.buffer(self.slices([site]), rng)
            if buffer is not None:
                buffers[site] = buffer
        return slices, dict(sorted(buffers.items()))

    # --- its own state ---------------------------------------------------------------

    def state(self) -> arrays.SiteState:
        """The site's own state folder.

        Raises:
            RunError: the node's configuration gives none.
        """
        if self.state_path is None:
            raise RunError(f"site {self.site}: this strategy keeps state; set state-path")
        return arrays.SiteState(self.state_path)

    def kept(self, version: int) -> arrays.Arrays:
        """Return what it kept: "weights/", "auxiliary/" and "buffer/" arrays."""
        return self.state().load(version) if version else {}

    # --- networks --------------------------------------------------------------------

    def check(self) -> None:
        """Read the data and see that the model can take it.

        Raises:
            DataError: it cannot; names the site.
        """
        learner.device_of(self.job.learner)
        for name in self.places:
            images = self.data(name).train[0].images[:1]
            problem = "it answers in another size"
            try:
                answer = learner.forward(_network(self.text).cpu(), images)
                fits = answer.shape[-2:] == images.shape[-2:]
            except (RuntimeError, ValueError) as error:
                fits, problem = False, str(error).splitlines()[0]
            if not fits:
                raise DataError(
                    f"site {name}: the model cannot take images of {images.shape[-2]} x "
                    f"{images.shape[-1]} pixels ({problem}); change scenario.size or model"
                )

    def load_student(self, record: ArrayRecord, version: int) -> nn.Module:
        """Return the network with the weights sent, completed by those kept here.

        What is neither sent nor kept yet is the common initialisation.
        """
        network = _network(self.text).to(learner.device_of(self.job.learner))
        weights = arrays.from_record(record)
        if weights.keys() != _initial(self.text).keys():
            kept = arrays.under("weights/", self.kept(version))
            weights = _initial(self.text) | kept | weights
        arrays.into_network(network, weights)
        return network

    def auxiliary(self, state: arrays.Arrays) -> nn.Module | None:
        """Return the strategy's own module as it was kept, or new."""
        job, name = self.job, next(iter(self.places))
        images = self.data(name).train[0].images[:1]
        widths = _widths(self.text, tuple(images.shape))
        with seeded("auxiliary", job.seed):
            module = job.strategy.auxiliary(widths, images.shape[1])
        if module is None:
            return None
        own = arrays.under("auxiliary/", state)
        if own:
            arrays.into_network(module, own)
        return module.to(learner.device_of(job.learner))

    def teacher(self, call: Call, slices: Slices) -> dict[str, Any]:
        """Return the lesson's `teacher` and its `answers` on `slices`, kept between rounds."""
        if call.teacher is None:
            return {}
        weights = arrays.from_record(call.teacher)
        known = _teachers.get(self.site)
        mark = (self.text, arrays.digest(weights), call.learning, call.rehearsing)
        if known is None or known[0] != mark:
            device = learner.device_of(self.job.learner)
            network = new_network(self.job).to(device).requires_grad_(False).eval()
            arrays.into_network(network, weights)
            classes = self.job.scenario.classes
            known = mark, network, Answers(network, slices.images, classes)
            _teachers[self.site] = known
        _, network, answers = known
        return {"teacher": network, "answers": answers if answers.fit else None}

    def on_device(self, record: ArrayRecord | None) -> dict[str, Tensor]:
        """Return the arrays of `record` as tensors."""
        device = learner.device_of(self.job.learner)
        known = arrays.from_record(record) if record is not None else {}
        return {key: torch.tensor(value, device=device) for key, value in known.items()}

    def score(self, network: nn.Module, split: str) -> tuple[list[str], dict[str, list[float]]]:
        """Return the names of the cases of `split`, "val" or "test", and their scores."""
        names = {"val": ("dice",), "test": tuple(SCORES)}[split]
        job = self.job
        cases = [case for name in self.places for case in getattr(self.data(name), split)]
        each = [
            case_scores(
                learner.predict(network, case, job.learner),
                case.labels,
                job.scenario.classes,
                case.spacing,
                names,
            )
            for case in cases
        ]
        return [c.name for c in cases], {name: [one[name] for one in each] for name in names}


class Answers:
    """The teacher's probabilities on training slices, computed when first asked for.

    Attributes:
        fit: whether they are few enough to be kept.
    """

    LIMIT = 512 * 2**20  # bytes per site and process

    def __init__(self, teacher: nn.Module, images: Tensor, classes: int) -> None:
        self.teacher, self.images = teacher, images
        self.fit = images[:, :1].numel() * classes * 4 <= self.LIMIT
        self._all: Tensor | None = None

    def __call__(self, index: Tensor) -> Tensor:
        """Return those on the slices of these indices, shape (B, K, H, W)."""
        if self._all is None:
            self._all = learner.forward(self.teacher, self.images)
        return self._all[index]


_teachers: dict[str, tuple[tuple[Any, ...], nn.Module, Answers]] = {}


def new_network(job: Job) -> nn.Module:
    """Make the job's network with the initial weights that (seed) gives everywhere."""
    with seeded("model", job.seed):
        return job.model.build(job.scenario.channels, job.scenario.classes)


@lru_cache(maxsize=64)
def _data(scenario: str, site: str, path: Path | None, seed: int) -> SiteData:
    return SCENARIO.make(json.loads(scenario)).load(site, path, seed)


@lru_cache(maxsize=64)
def _slices(
    scenario: str, places: tuple[tuple[str, Path | None], ...], seed: int, device: torch.device
) -> Slices:
    cases = [case for site, path in places for case in _data(scenario, site, path, seed).train]
    return Slices.of(cases, device)


@lru_cache(maxsize=2)
def _network(text: str) -> nn.Module:
    return new_network(Job.from_json(text))


@lru_cache(maxsize=2)
def _initial(text: str) -> arrays.Arrays:
    return arrays.of_network(new_network(Job.from_json(text)))


@lru_cache(maxsize=2)
def _local(text: str) -> frozenset[str]:
    job = Job.from_json(text)
    return frozenset(job.strategy.local(new_network(job)))


@lru_cache(maxsize=2)
def _widths(text: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the channels of the model's features."""
    job = Job.from_json(text)
    with torch.no_grad():
        _, features = watch(new_network(job).eval(), job.model.scales, torch.zeros(shape))
    return tuple(feature.shape[1] for feature in features)
