"""The ClientApp: what a hospital answers.

Each answer is a pure function of the message, the site's data and the named version of the
site's state. The site's name, data folder and state folder come from the node's own
configuration; a message can name neither a path nor code.
"""

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean

import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from torch import Tensor, nn

from fedcl import arrays, learner
from fedcl.config import Job
from fedcl.errors import DataError, FedclError, RunError
from fedcl.messages import Call, Hello, Scored, Update
from fedcl.plugins import SCENARIO, describe
from fedcl.scores import SCORES, case_scores
from fedcl.seeding import seeded, torch_rng
from sites.base import SiteData

app = ClientApp()


@app.query("hello")
def hello(message: Message, context: Context) -> Message:
    """Say which site this is and what it holds, or in one line why it cannot take part."""
    site = str(context.node_config["site"])
    try:
        hospital = Hospital.of(context, str(message.content.config_records["job"]["json"]))
        hospital.check()
        data = hospital.data
    except FedclError as error:
        return Message(Hello(site, error=str(error)).pack(), reply_to=message)
    about = Hello(
        site,
        digest=data.digest(),
        train=len(data.train),
        val=len(data.val),
        test=len(data.test),
        slices=sum(len(case.images) for case in data.train),
    )
    return Message(about.pack(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train for one round from the weights sent; return the weights that may leave."""
    started = time.perf_counter()
    call, hospital, student = _begin(message, context)
    job, slices = hospital.job, hospital.slices()
    teacher, taught = hospital.load_teacher(call.teacher)
    keys = (job.seed, hospital.site, call.stage, call.round)
    with seeded("train", *keys):
        losses = learner.train(
            student,
            slices,
            job.learner,
            job.strategy,
            job.learner.rate(call.stage),
            torch_rng("batches", *keys),
            teacher,
            taught,
            validate=lambda: fmean(hospital.score(student, "val")[1]["dice"]),
        )
    weights = arrays.of_network(student)
    problem = arrays.complaint(weights, weights)
    if problem:
        raise RunError(f"after training, {problem}")
    shared, kept = arrays.split(weights, job.strategy.local)
    if kept:
        hospital.state().save(call.round, kept, call.state)
    seconds = time.perf_counter() - started
    mark = arrays.digest(kept) if kept else ""
    update = Update(shared, len(slices), losses, seconds, mark)
    return Message(update.pack(), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the weights sent, case by case: by Dice on validation, by all scores on test."""
    started = time.perf_counter()
    call, hospital, student = _begin(message, context)
    cases, scores = hospital.score(student, call.split)
    scored = Scored(cases, scores, time.perf_counter() - started)
    return Message(scored.pack(), reply_to=message)


def _begin(message: Message, context: Context) -> tuple[Call, "Hospital", nn.Module]:
    """Read a call; return it with the hospital and the network it is to start from."""
    call = Call.unpack(message.content)
    hospital = Hospital.of(context, call.job)
    torch.set_num_threads(hospital.job.learner.threads)
    return call, hospital, hospital.load_student(call.arrays, call.state)


@dataclass(frozen=True)
class Hospital:
    """One site and the job it was given; hashable, so that what it loads can be cached."""

    site: str
    data_path: Path | None
    state_path: Path | None
    text: str

    @classmethod
    def of(cls, context: Context, text: str) -> "Hospital":
        """Join the site's own configuration with the job it was sent."""
        node = context.node_config
        data, state = (
            Path(str(node[key])) if key in node else None for key in ("data-path", "state-path")
        )
        return cls(str(node["site"]), data, state, text)

    @property
    def job(self) -> Job:
        """The job, checked."""
        return Job.from_json(self.text)

    @property
    def data(self) -> SiteData:
        """The site's cases, read once per process."""
        job = self.job
        return _data(json.dumps(describe(job.scenario)), self.site, self.data_path, job.seed)

    def slices(self) -> learner.Slices:
        """The training slices on the device, stacked once per process."""
        return _slices(self)

    def state(self) -> arrays.SiteState:
        """The site's own state folder.

        Raises:
            RunError: the node's configuration gives none.
        """
        if self.state_path is None:
            raise RunError(f"site {self.site}: this strategy keeps state; set state-path")
        return arrays.SiteState(self.state_path)

    def check(self) -> None:
        """Read the data and see that the model can take it.

        Raises:
            DataError: it cannot; names the site.
        """
        learner.device_of(self.job.learner)
        images = self.data.train[0].images[:1]
        problem = "it answers in another size"
        try:
            fits = (
                learner.forward(_network(self.text).cpu(), images).shape[-2:] == images.shape[-2:]
            )
        except (RuntimeError, ValueError) as error:
            fits, problem = False, str(error).splitlines()[0]
        if not fits:
            raise DataError(
                f"site {self.site}: the model cannot take images of {images.shape[-2]} x "
                f"{images.shape[-1]} pixels ({problem}); change scenario.size or model"
            )

    def load_student(self, record: ArrayRecord, version: int) -> nn.Module:
        """Return the network with the weights sent, completed by those kept here.

        What is neither sent nor kept yet is the common initialisation.
        """
        network = _network(self.text).to(learner.device_of(self.job.learner))
        weights = arrays.from_record(record)
        if weights.keys() != _initial(self.text).keys():
            kept = self.state().load(version) if version else {}
            weights = _initial(self.text) | kept | weights
        arrays.into_network(network, weights)
        return network

    def score(self, network: nn.Module, split: str) -> tuple[list[str], dict[str, list[float]]]:
        """Return the names of the cases of `split`, "val" or "test", and their scores."""
        cases, names = {
            "val": (self.data.val, ("dice",)),
            "test": (self.data.test, tuple(SCORES)),
        }[split]
        job = self.job
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

    def load_teacher(self, record: ArrayRecord | None) -> tuple[nn.Module | None, Tensor | None]:
        """Return the teacher and its answers on the training slices, kept between rounds."""
        if record is None:
            return None, None
        weights = arrays.from_record(record)
        known = _teachers.get(self.site)
        mark = (self, arrays.digest(weights))
        if known is None or known[0] != mark:
            device = learner.device_of(self.job.learner)
            teacher = new_network(self.job).to(device).requires_grad_(False).eval()
            arrays.into_network(teacher, weights)
            known = mark, teacher, self.teach(teacher)
            _teachers[self.site] = known
        return known[1], known[2]

    def teach(self, teacher: nn.Module) -> Tensor | None:
        """Return the teacher's answers on all training slices, unless they are too many."""
        images = self.slices().images
        bytes_ = images[:, :1].numel() * self.job.scenario.classes * 4
        return learner.forward(teacher, images) if bytes_ <= TAUGHT_BYTES else None


TAUGHT_BYTES = 512 * 2**20  # of cached teacher answers per site and process
_teachers: dict[str, tuple[tuple[Hospital, str], nn.Module, Tensor | None]] = {}


def new_network(job: Job) -> nn.Module:
    """Make the job's network with the initial weights that (seed) gives everywhere."""
    with seeded("model", job.seed):
        return job.model.build(job.scenario.channels, job.scenario.classes)


@lru_cache(maxsize=64)
def _data(scenario: str, site: str, path: Path | None, seed: int) -> SiteData:
    return SCENARIO.make(json.loads(scenario)).load(site, path, seed)


@lru_cache(maxsize=64)
def _slices(hospital: Hospital) -> learner.Slices:
    return learner.Slices.of(hospital.data.train, learner.device_of(hospital.job.learner))


@lru_cache(maxsize=2)
def _network(text: str) -> nn.Module:
    return new_network(Job.from_json(text))


@lru_cache(maxsize=2)
def _initial(text: str) -> arrays.Arrays:
    return arrays.of_network(new_network(Job.from_json(text)))
