"""One hospital at work: its data, its state, its networks, and what is cached of them."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fedcl import arrays
from fedcl.config.job import Job, Role
from fedcl.data.cases import Samples, SiteData
from fedcl.data.files import reading
from fedcl.errors import DataError, RunError
from fedcl.hospital.store import Shelf, SiteState
from fedcl.learning import bank, loop
from fedcl.learning.step import Activations, Rehearsal, watch
from fedcl.models.base import Model
from fedcl.registry import SCENARIO, describe, name_of
from fedcl.seeding import seeded, torch_rng
from fedcl.tasks.base import Labeller
from fedcl.wire import records
from fedcl.wire.messages import Call


class MissingError(RunError):
    """What was sent before is not here any more: `records` of a call."""

    def __init__(self, records: list[str]) -> None:
        super().__init__(f"{', '.join(records)} must be sent again")
        self.records = records


LEAST = 4
"""Training samples below which a hospital tells nothing about them but weights."""

T = TypeVar("T", Tensor, Activations)
Places = Mapping[str, Path | None]
Place = tuple[str, Path | None, float]
"""A site, its folder, and the share of its training cases that is used."""


@dataclass(frozen=True)
class Hospital:
    """One site and the job it was given.

    Attributes:
        site: its name.
        places: the sites whose data it holds and their folders: itself alone, or all of
            them for the pool of a centralised simulation.
        state_path: folder of its own state.
        shelf: where it keeps what it was sent once.
        text: the job, as it was sent.
        run: whose state it is, if `state_path` is for several.
    """

    site: str
    places: Places
    state_path: Path | None
    shelf: Shelf
    text: str
    run: str = ""

    @classmethod
    def of(cls, node: Mapping[str, Any], text: str, run: str = "") -> "Hospital":
        """Join a node's own configuration with the job it was sent, and the name of the run.

        `data-path` is one folder; a pool's `pool` is JSON: {site: folder}. `received-path` is by
        default a folder in `state-path`; sites of one machine may share it.
        """
        site = str(node["site"])
        places = json.loads(str(node.get("pool", "null"))) or {site: node.get("data-path")}
        state = Path(str(node["state-path"])) if "state-path" in node else None
        folders = {name: Path(str(path)) if path else None for name, path in places.items()}
        received = node.get("received-path", state / "received" if state else None)
        shelf = Shelf(Path(str(received)) if received else None)
        return cls(site, folders, state, shelf, text, run)

    @property
    def job(self) -> Job:
        """The job, checked."""
        return Job.from_json(self.text)

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
        return _local(self.text, self.role.model, next(iter(self.places)))

    # --- data ------------------------------------------------------------------------

    def data(self, name: str) -> SiteData:
        """Return the cases of one of its places, read once per process.

        Raises:
            DataError: the data cannot be used.
        """
        return _data(json.dumps(describe(self.job.scenario)), *self._place(name), self.job.seed)

    def _place(self, name: str, share: float = 1.0) -> Place:
        return name, self.places[name], share * self._role(name).data_fraction

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
        scenario = json.dumps(describe(self.job.scenario))
        folders = tuple(self._place(name, share) for name, share in shares.items())
        return _samples(scenario, folders, self.job.seed, loop.device_of(self.job.learner))

    def select(
        self, learning: Mapping[str, float], rehearsing: Sequence[str], state: arrays.Arrays
    ) -> tuple[Samples, dict[str, Samples]]:
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
            buffers[site] = Samples(inputs, targets)
        missing = [site for site in rehearsing if site not in buffers]
        if missing:
            raise RunError(f"site {self.site}: nothing was kept of {', '.join(missing)}")
        parts = [self.samples(learning)] if learning else []
        samples = Samples.joined([*parts, *(buffers[site] for site in rehearsing)])
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
            raise RunError(f"site {self.site}: this strategy keeps state; set state-path")
        return SiteState(self.state_path / self.run)

    def kept(self, version: int) -> arrays.Arrays:
        """Return what it kept: "weights/", "auxiliary/" and "buffer/" arrays."""
        return self.state().load(version) if version else {}

    def received(self, call: Call) -> Call:
        """Return a call with all that belongs to it, and keep what will be asked for again.

        Raises:
            MissingError: something that was sent before is not here any more.
        """
        found: dict[str, Any] = {}
        for name, mark in call.digests.items():
            found[name] = getattr(call, name) or self.shelf.get(mark)
            if name in call.keep and getattr(call, name) is not None:
                self.shelf.put(mark, found[name])
        missing = [name for name, record in found.items() if record is None]
        if missing:
            raise MissingError(missing)
        return replace(call, **found)

    def holds(self, call: Call) -> list[str]:
        """Return the digests of a call that need not be sent again."""
        marks = [mark for name, mark in call.digests.items() if name in call.keep]
        return [mark for mark in marks if self.shelf.has(mark)]

    # --- networks --------------------------------------------------------------------

    def check(self) -> None:
        """Read the data and see that the model can take it.

        Raises:
            DataError: it cannot; names the site.
        """
        device, task = loop.device_of(self.job.learner), self.job.scenario.task
        every = sum(len(self.samples({name: 1.0})) for name in self.places)
        size = self.job.learner.batch_size
        smallest = every % size or min(every, size)
        for name in self.places:
            samples = self.samples({name: 1.0})
            for model in self.job.models:  # all of them are evaluated here
                network = _network(self.text, model, (name,)).to(device)
                own = model == self.role.model
                problem = task.problem(network, samples, smallest if own else 0)
                if problem is not None:
                    raise DataError(f"site {name}: {problem}")
            least = self.job.strategy.requirements.batch
            if self.role.teacher is not None and len(samples) < least:
                raise DataError(
                    f"site {name}: {len(samples)} training samples; strategy "
                    f"{name_of(self.job.strategy)} compares those of a batch and needs at least "
                    f"{least}"
                )
        network = _network(self.text, self.role.model, (next(iter(self.places)),))
        problem = self.too_few(network, samples, every)
        if problem is not None:
            raise DataError(problem)
        self.auxiliary({})

    def too_few(self, network: nn.Module, samples: Samples, count: int) -> str | None:
        """Return why the strategy's report of `count` such samples must not be sent, or None."""
        reporting = self.job.strategy.reporting(network, samples.inputs.shape[1:])
        if reporting is None or count >= LEAST:
            return None
        return (
            f"site {self.site}: {count} training samples; what strategy "
            f"{name_of(self.job.strategy)} tells of fewer than {LEAST} would be close to an image; "
            "give it more cases or take another strategy"
        )

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
        network = _network(self.text, model, tuple(sites))
        network.to(loop.device_of(self.job.learner))
        weights = records.from_record(record)
        initial = _initial(self.text, model, tuple(sites))
        if weights.keys() != initial.keys() and model == self.role.model:
            kept = arrays.under("weights/", self.kept(version))
            weights = initial | arrays.grown(kept, initial) | weights
        arrays.into_network(network, weights)
        return network

    def auxiliary(self, state: arrays.Arrays) -> nn.Module | None:
        """Return the strategy's own module as it was kept, or new; none without a teacher."""
        job, role, name = self.job, self.role, next(iter(self.places))
        if role.teacher is None:
            return None
        with seeded("auxiliary", job.seed):
            module = job.strategy.auxiliary(
                *_views(self.text, role.model, role.teacher, self._place(name))
            )
        if module is None:
            return None
        own = arrays.under("auxiliary/", state)
        if own:
            arrays.into_network(module, own)
        return module.to(loop.device_of(job.learner))

    def teacher(self, call: Call, samples: Samples) -> dict[str, Any]:
        """Return the lesson's teacher and what it says, kept between rounds."""
        model = self.role.teacher
        if call.teacher is None or model is None:
            return {}
        known = _teachers.get(self.site)
        mark = (self.text, call.digests.get("teacher"), call.shares, call.rehearsing, call.arrived)
        if known is None or known[0] != mark:
            network = self.job.network(model, call.arrived)
            network.requires_grad_(False).eval().to(loop.device_of(self.job.learner))
            arrays.into_network(network, records.from_record(call.teacher))
            task, kind = self.job.scenario.task, self.job.models[model]
            known = (
                mark,
                {
                    "teacher": network,
                    "teacher_model": kind,
                    "answers": kept(partial(task.answers, network), samples.inputs),
                    "views": kept(partial(view, network, kind, task.chunk), samples.inputs),
                    "past": self.past(call, network, samples),
                },
            )
            _teachers[self.site] = known
        return known[1]

    def past(self, call: Call, network: nn.Module, samples: Samples) -> Rehearsal | None:
        """Return inputs of the sites of earlier stages, with the answers of their teachers.

        Args:
            call: says who arrived when, and what the server remembers.
            network: the teacher.
            samples: the site's own.
        """
        task, device = self.job.scenario.task, samples.inputs.device
        *earlier, now = [[site for site in stage if site not in call.lost] for stage in call.stages]
        memory = records.from_record(call.memory) if call.memory is not None else {}
        teaching = self.job.strategy.teaching
        old = bank.read(memory, len(earlier)) if teaching is not None and teaching.bank else []
        before = [site for stage in earlier for site in stage]
        voices: list[Labeller] = [] if old else [(partial(task.answers, network), before)]
        for weights, sites in zip(old, earlier, strict=False):
            earlier_network = self.job.network(self.role.model, call.arrived)
            earlier_network.requires_grad_(False).eval().to(device)
            room = arrays.of_network(earlier_network)
            arrays.into_network(earlier_network, arrays.grown(weights, room))
            voices.append((partial(task.answers, earlier_network), sites))
        past = task.past(voices, device, list(call.shares))
        if past is None:
            return None
        aligned = torch.equal(past.inputs, samples.inputs)
        grows = task.count([*before, *now]) > task.count(before)
        here = None if aligned else task.answered(past, samples.inputs)
        return Rehearsal(past, aligned, len(past) / task.count(now) if grows else None, here)

    def on_device(self, record: ArrayRecord | None) -> dict[str, Tensor]:
        """Return the arrays of `record` as tensors."""
        device = loop.device_of(self.job.learner)
        known = records.from_record(record) if record is not None else {}
        return {key: torch.tensor(value, device=device) for key, value in known.items()}

    def score(
        self, network: nn.Module, split: str
    ) -> tuple[list[tuple[str, dict[str, float]]], float]:
        """Return name and scores of every case of `split`, and the seconds that predicting took.

        One score for "val", all for "test".
        """
        task, settings = self.job.scenario.task, self.job.learner
        device = loop.device_of(settings)
        found, seconds = [], 0.0
        for place in self.places:
            names = task.scored(place)[: 1 if split == "val" else None]
            for case in getattr(self.data(place), split):
                started = time.perf_counter()
                prediction = task.predict(network, case, device, settings.amp)
                seconds += time.perf_counter() - started
                found.append((case.name, task.score(prediction, case, names)))
        return found, seconds

    def validate(self, network: nn.Module) -> float:
        """Return the mean score of the validation cases."""
        found, _ = self.score(network, "val")
        return fmean(value for _, scores in found for value in scores.values())


LIMIT = 512 * 2**20
"""Bytes of a teacher's answers, and of its layers' outputs, that a process keeps per site."""


def kept(compute: Callable[[Tensor], T], inputs: Tensor) -> Callable[[Tensor], T] | None:
    """Return what gives, for indices of `inputs`, what `compute` makes of them.

    It is computed for all inputs when first asked for; None where it is too much to be kept.
    """
    if len(inputs) * compute(inputs[:1]).nbytes > LIMIT:
        return None
    every: list[T] = []

    def some(index: Tensor) -> T:
        if not every:
            every.append(compute(inputs))
        return every[0][index]

    return some


@torch.no_grad()
def view(network: nn.Module, model: Model, chunk: int, inputs: Tensor) -> Activations:
    """Return what a network makes of all inputs, chunk by chunk; see `watch`."""
    return Activations.joined([watch(network, model, part) for part in inputs.split(chunk)])


_teachers: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
"""Per site: what marks a teacher, and its part of the lesson."""


@lru_cache(maxsize=64)
def _loaded(scenario: str, site: str, path: Path | None, seed: int) -> SiteData:
    with reading(site):
        data: SiteData = SCENARIO.make(json.loads(scenario)).load(site, path, seed)
    return data


def _data(scenario: str, site: str, path: Path | None, share: float, seed: int) -> SiteData:
    return _loaded(scenario, site, path, seed).limited(share, seed, site)


@lru_cache(maxsize=64)
def _samples(scenario: str, places: tuple[Place, ...], seed: int, device: torch.device) -> Samples:
    cases = [case for place in places for case in _data(scenario, *place, seed).train]
    return SCENARIO.make(json.loads(scenario)).task.samples(cases, device)


@lru_cache(maxsize=4)
def _network(text: str, model: str, sites: tuple[str, ...]) -> nn.Module:
    job = Job.from_json(text)
    network = job.network(model, sites)
    if job.learner.compile:
        network.compile()
    return network


@lru_cache(maxsize=4)
def _initial(text: str, model: str, sites: tuple[str, ...]) -> arrays.Arrays:
    return arrays.of_network(Job.from_json(text).network(model, sites))


@lru_cache(maxsize=4)
def _local(text: str, model: str, site: str) -> frozenset[str]:
    job = Job.from_json(text)
    return frozenset(job.local(job.network(model, [site])))


@lru_cache(maxsize=64)
def _views(
    text: str, student: str, teacher: str, place: Place
) -> tuple[Activations, Activations, Tensor]:
    """Return what untrained networks of two architectures make of a sample, and the sample."""
    job = Job.from_json(text)
    scenario = json.dumps(describe(job.scenario))
    device = loop.device_of(job.learner)
    inputs = _samples(scenario, (place,), job.seed, device).inputs[:1].cpu()
    seen = {}
    for model in {student, teacher}:
        network = job.network(model, [place[0]]).eval()
        with torch.no_grad():
            seen[model] = watch(network, job.models[model], inputs)
    return seen[student], seen[teacher], inputs
