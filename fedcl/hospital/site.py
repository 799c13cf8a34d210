"""One hospital at work: its data, its state, its networks, and what is cached of them."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fedcl import arrays
from fedcl.config.job import Job, Role
from fedcl.data.cases import SiteData
from fedcl.data.files import reading
from fedcl.data.samples import Samples, Stacked, joined
from fedcl.errors import DataError, RunError
from fedcl.hospital.cache import Cache
from fedcl.hospital.store import Received, SiteState
from fedcl.learning import loop
from fedcl.learning.step import Activations, watch
from fedcl.registry import describe
from fedcl.seeding import seeded, torch_rng
from fedcl.settings import without_effect
from fedcl.tasks.base import Task
from fedcl.wire import records
from fedcl.wire.requests import TrainRequest


class MissingError(RunError):
    """What was sent before is not here any more: `records` of a call."""

    def __init__(self, records: list[str]) -> None:
        super().__init__(f"{', '.join(records)} must be sent again")
        self.records = records


Places = Mapping[str, Path | None]


@dataclass(frozen=True)
class Hospital:
    """One site and the job it was given.

    Attributes:
        site: its name.
        places: the sites whose data it holds and their folders: itself alone, or all of
            them for the pool of a centralised simulation.
        state_path: folder of its own state.
        received: what it was sent once and keeps.
        cache: of the process.
        text: the job, as it was sent.
        run: whose state it is, if `state_path` is for several.
        holding: where a real hospital holds prepared images, "memory" or "disk"; empty in a
            simulation, where the job says it.
    """

    site: str
    places: Places
    state_path: Path | None
    received: Received
    cache: Cache
    text: str
    run: str = ""
    holding: str = ""

    @classmethod
    def of(
        cls, node: Mapping[str, Any], text: str, run: str = "", cache: Cache | None = None
    ) -> "Hospital":
        """Join a node's own configuration with the job it was sent, and the name of the run.

        `data-path` is one folder; a pool's `pool` is JSON: {site: folder}. `received-path` is by
        default a folder in `state-path`; sites of one machine may share it. `cache` is where
        prepared images are held, "memory" or "disk".
        """
        site = str(node["site"])
        places = json.loads(str(node.get("pool", "null"))) or {site: node.get("data-path")}
        state = Path(str(node["state-path"])) if "state-path" in node else None
        folders = {name: Path(str(path)) if path else None for name, path in places.items()}
        received = node.get("received-path", state / "received" if state else None)
        cache = cache or Cache()
        kept = Received(Path(str(received)) if received else None, cache)
        holding = "" if node.get("simulated") else str(node.get("cache", "memory"))
        if holding not in ("", "memory", "disk"):
            raise DataError(f"site {site}: cache: give memory or disk, got {holding!r}")
        return cls(site, folders, state, kept, cache, text, run, holding)

    @property
    def job(self) -> Job:
        """The job, checked."""

        def read() -> Job:
            job = Job.from_json(self.text)
            chosen: dict[str, Any] = {"cache": self.holding}
            if self.holding and "cache" in without_effect(job.scenario):
                return replace(job, scenario=replace(job.scenario, **chosen))
            return job

        return self.cache.get("job", (self.text, self.holding), read, most=8)

    @property
    def role(self) -> Role:
        """What it is to do; for errors see `_role`."""
        return self._role(self.site)

    def _role(self, name: str) -> Role:
        """Return what a site is to do.

        Raises:
            RunError: it is not among those of the run.
        """
        if name not in self.job.roles:
            raise RunError(f"site {name}: it has no part in this run")
        return self.job.roles[name]

    @property
    def local(self) -> frozenset[str]:
        """The weight arrays that stay here."""
        model, first = self.role.model, next(iter(self.places))

        def make() -> frozenset[str]:
            return self.job.local(self.job.network(model, [first]))

        return self.cache.get("local", (self.text, model, first), make)

    # --- data ------------------------------------------------------------------------

    def data(self, name: str) -> SiteData:
        """Return the cases of one of its places, read once per process.

        Raises:
            DataError: the data cannot be used.
        """
        return self._limited(name, 1.0)

    def digest(self) -> str:
        """Return what its data are known again by: the digests of all its places."""

        def make() -> str:
            return "".join(self.data(name).digest() for name in self.places)

        places = tuple(self.places.items())
        fractions = tuple(self._role(name).data_fraction for name in self.places)
        key = self._scenario, places, fractions, self.job.seed
        return self.cache.get("digest", key, make, most=4096)  # it is asked for in every call

    def reread(self) -> None:
        """Read its data anew when they are next asked for: they may have been changed."""
        self.cache.drop("data", "digest", "samples", "shown", "stage")

    def _limited(self, name: str, share: float) -> SiteData:
        """Return the cases of one of its places, with a share of the training cases it uses."""
        path, seed = self.places[name], self.job.seed

        def read() -> SiteData:
            with reading(name):
                return self.job.scenario.load(name, path, seed)

        whole = self.cache.get("data", (self._scenario, name, path, seed), read)
        return whole.limited(share * self._role(name).data_fraction, seed, name)

    @cached_property
    def _scenario(self) -> str:
        """What the data depend on, but for their place and the seed."""
        return json.dumps(describe(self.job.scenario))

    @property
    def task(self) -> Task:
        """What is learned, in samples as large as the training cases of its places need."""
        return self.job.task.sized([c for name in self.places for c in self.data(name).train])

    def cases(self, shares: Mapping[str, float]) -> list[Any]:
        """Return shares of the training cases of some of its places."""
        return [c for name, share in shares.items() for c in self._limited(name, share).train]

    def samples(self, shares: Mapping[str, float]) -> Samples:
        """Return the training samples of some of its places, stacked once per process.

        Args:
            shares: of the training cases of each place, those to take.

        Raises:
            RunError: it was asked for samples of another site, or of none.
        """
        others = [name for name in shares if name not in self.places]
        if others or not shares:
            raise RunError(f"site {self.site} has no samples of {', '.join(others) or 'no site'}")
        device = loop.device_of(self.job.learner)
        places = tuple(
            (name, self.places[name], share * self._role(name).data_fraction)
            for name, share in shares.items()
        )

        def stack() -> Samples:
            return self.task.samples(self.cases(shares), device)

        key = self._scenario, places, self.job.seed, device
        return self.cache.get("samples", key, stack)

    def select(
        self, learning: Mapping[str, float], rehearsing: Sequence[str], state: arrays.Arrays
    ) -> tuple[Samples, dict[str, Stacked]]:
        """Return the samples to train on in a round, and those to keep for later stages.

        Args:
            learning: the shares of the training cases of the places to learn from.
            rehearsing: the places to take what was kept of.
            state: what was kept.

        Raises:
            RunError: nothing was kept of a site to rehearse.
        """
        device, buffers = loop.device_of(self.job.learner), {}
        for site in {key.split("/")[1] for key in state if key.startswith("buffer/")}:
            kept = arrays.under(f"buffer/{site}/", state)
            inputs, targets = (torch.from_numpy(kept[k]).to(device) for k in ("inputs", "targets"))
            buffers[site] = Stacked(inputs, targets)
        missing = [site for site in rehearsing if site not in buffers]
        if missing:
            raise RunError(f"site {self.site}: nothing was kept of {', '.join(missing)}")
        parts = [self.samples(learning)] if learning else []
        samples = joined([*parts, *(buffers[site] for site in rehearsing)])
        for site, share in learning.items():
            rng = torch_rng("buffer", self.job.seed, site)
            buffer = self.job.strategy.buffer(self.samples({site: share}), rng)
            if buffer is not None:
                buffers[site] = buffer
        return samples, dict(sorted(buffers.items()))

    # --- its own state ---------------------------------------------------------------

    def state(self) -> SiteState:
        """The site's own state folder.

        Raises:
            RunError: the node's configuration gives none.
        """
        if self.state_path is None:
            raise RunError(f"site {self.site}: this run keeps state at sites; set state-path")
        return SiteState(self.state_path / self.run)

    def kept(self, version: int) -> arrays.Arrays:
        """Return what it kept: "weights/", "auxiliary/", "buffer/" and "optimiser/" arrays."""
        return self.state().load(version) if version else {}

    def completed(self, call: TrainRequest) -> TrainRequest:
        """Return a call with all that belongs to it, and keep what will be asked for again.

        Raises:
            MissingError: something that was sent before is not here any more.
        """
        found: dict[str, Any] = {}
        for name, mark in call.digests.items():
            found[name] = getattr(call, name) or self.received.get(mark)
            if name in call.keep and getattr(call, name) is not None:
                self.received.put(mark, found[name])
        missing = [name for name, record in found.items() if record is None]
        if missing:
            raise MissingError(missing)
        return replace(call, **found)

    def holds(self, call: TrainRequest) -> list[str]:
        """Return the digests of a call that need not be sent again."""
        marks = [mark for name, mark in call.digests.items() if name in call.keep]
        return [mark for mark in marks if self.received.has(mark)]

    # --- networks --------------------------------------------------------------------

    def load(
        self, model: str, record: ArrayRecord, version: int, sites: Sequence[str]
    ) -> nn.Module:
        """Return a network with the weights sent, completed by those kept here.

        What is neither sent nor kept yet is the common initialisation.

        Args:
            model: its architecture.
            record: the weights sent.
            version: of the site's own state.
            sites: those that have arrived.

        Raises:
            RunError: there is no such architecture, or what was kept cannot be read.
        """
        if model not in self.job.models:
            raise RunError(
                f"site {self.site}: asked for an architecture {model!r} that is not there"
            )
        network = self.network(model, tuple(sites))
        network.to(loop.device_of(self.job.learner))
        weights = records.from_record(record)
        initial = self.cache.get(
            "initial",
            (self.text, model, tuple(sites)),
            lambda: arrays.of_network(self.job.network(model, sites)),
            most=4,
        )
        if weights.keys() != initial.keys() and model == self.role.model:
            kept = arrays.under("weights/", self.kept(version))
            weights = initial | arrays.grown(kept, initial) | weights
        arrays.into_network(network, weights)
        return network

    def network(self, model: str, sites: tuple[str, ...]) -> nn.Module:
        """Return an architecture's network, whose weights are nobody's, to be overwritten."""

        def make() -> nn.Module:
            network = self.job.network(model, sites)
            if self.job.learner.compile:
                network.compile()
            return network

        return self.cache.get("network", (self.text, model, sites), make, most=4)

    def auxiliary(self, state: arrays.Arrays) -> nn.Module | None:
        """Return the strategy's own module as it was kept, or new; none without a teacher."""
        job, role, name = self.job, self.role, next(iter(self.places))
        if role.teacher is None:
            return None
        inputs = self.samples({name: 1.0})[torch.zeros(1, dtype=torch.int64)].inputs.cpu()
        student, teacher = (self._shown(one, name, inputs) for one in (role.model, role.teacher))
        with seeded("auxiliary", job.seed):
            module = job.strategy.auxiliary(student, teacher, inputs)
        if module is None:
            return None
        own = arrays.under("auxiliary/", state)
        if own:
            arrays.into_network(module, own)
        return module.to(loop.device_of(job.learner))

    def _shown(self, model: str, site: str, inputs: Tensor) -> Activations:
        """Return what an untrained network of an architecture makes of a sample of a site."""

        def make() -> Activations:
            network = self.job.network(model, [site]).eval()
            with torch.no_grad():
                return watch(network, self.job.models[model], inputs)

        return self.cache.get("shown", (self.text, model, site, self.places[site]), make)

    def on_device(self, record: ArrayRecord | None) -> dict[str, Tensor]:
        """Return the arrays of `record` as tensors."""
        return self.tensors(records.from_record(record) if record is not None else {})

    def tensors(self, known: arrays.Arrays) -> dict[str, Tensor]:
        """Return arrays as tensors, on the device that is computed on."""
        device = loop.device_of(self.job.learner)
        return {key: torch.tensor(value, device=device) for key, value in known.items()}

    def score(
        self, network: nn.Module, split: str
    ) -> tuple[list[tuple[str, dict[str, float]]], float]:
        """Return name and scores of every case of `split`, and the seconds that predicting took.

        One score for "val", all for "test".
        """
        task, settings = self.task, self.job.learner
        device = loop.device_of(settings)
        answering = self.job.strategy.answering(network, task).to(device)
        found, seconds = [], 0.0
        for place in self.places:
            names = task.scored(place)[: 1 if split == "val" else None]
            for case in getattr(self.data(place), split):
                started = time.perf_counter()
                prediction = task.predict(answering, case, device, settings.amp)
                seconds += time.perf_counter() - started
                found.append((case.name, task.score(prediction, case, names)))
        return found, seconds

    def validate(self, network: nn.Module) -> float:
        """Return the mean score of the validation cases."""
        found, _ = self.score(network, "val")
        return fmean(value for _, scores in found for value in scores.values())
