"""The ClientApp: what a hospital answers.

Each answer is a pure function of the message, the site's data and the named version of the
site's state. The site's name, data folder and state folder come from the node's own
configuration; a message can name neither a path nor code.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from torch import nn

from fedcl import arrays
from fedcl.data.files import reading
from fedcl.data.samples import Samples, Stacked
from fedcl.effort import Clock
from fedcl.errors import DataError, FedclError, RunError
from fedcl.hospital.cache import Cache
from fedcl.hospital.checks import check, too_few
from fedcl.hospital.forgetting import forget
from fedcl.hospital.reports import protected
from fedcl.hospital.site import Hospital, MissingError
from fedcl.hospital.teacher import recalled, start, teacher
from fedcl.learning import loop
from fedcl.learning.descent import descent, moments_of
from fedcl.learning.step import Lesson
from fedcl.seeding import seeded
from fedcl.wire.answers import Hello, Missing, Report, Scored, Update
from fedcl.wire.codes import RAISED
from fedcl.wire.requests import (
    AnyRequest,
    EvaluateRequest,
    Greeting,
    ReportRequest,
    TrainRequest,
)

log = logging.getLogger("fedcl")
Handler = Callable[[Message, Context], Message]


def client_app(cache: Cache | None = None) -> ClientApp:
    """Return the app of a hospital, with a cache of its own or a given one."""
    import monai  # noqa: F401  networks and scores need it; it takes seconds, and time is now

    made, cache = ClientApp(), cache or Cache()
    made.query("hello")(_discreet(partial(hello, cache)))
    made.train()(_discreet(partial(train, cache)))
    made.query("report")(_discreet(partial(report, cache)))
    made.query("forget")(_discreet(forget))
    made.evaluate()(_discreet(partial(evaluate, cache)))
    return made


def _discreet(handler: Handler) -> Handler:
    """Let an error leave in one line, without the hospital's folders; its own log has it all.

    In a simulation, where all hospitals are one user's, nothing is held back.
    """

    def safe(message: Message, context: Context) -> Message:
        if context.node_config.get("simulated"):
            return handler(message, context)
        try:
            return handler(message, context)
        except Exception as error:
            log.exception("%s failed", message.metadata.message_type)
            reason = _without_folders(f"{type(error).__name__}: {error}", context)
            return Message(Error(RAISED, reason), reply_to=message)

    return safe


def _without_folders(text: str, context: Context) -> str:
    """Return the first line of what a hospital says, without where its files lie."""
    line = text.partition("\n")[0]
    if context.node_config.get("simulated"):
        return line
    for key in ("data-path", "state-path", "received-path"):
        folder = str(context.node_config.get(key, "."))
        written = {folder.rstrip("/"), str(Path(folder)), str(Path(folder).resolve())}
        for one in sorted(written - {"", "."}, key=len, reverse=True):
            line = line.replace(f"{one}/", "")
            if "/" in one:  # a bare name may be a word as well
                line = line.replace(one, key)
    return line


def hello(cache: Cache, message: Message, context: Context) -> Message:
    """Say which site this is and what it holds, or in one line why it cannot take part."""
    node, simulated = context.node_config, bool(context.node_config.get("simulated"))
    try:
        job = Greeting.unpack(message.content).job
        hospital = Hospital.of(node, job, cache=cache)
        if not simulated:
            hospital.reread()  # it says what there is now
        if hospital.job.scenario.measures:
            return Message(_measured(hospital).pack(), reply_to=message)
        check(hospital)
    except FedclError as error:
        if not simulated:
            log.error("%s", error)
        problem = _without_folders(str(error), context)
        return Message(Hello(str(node["site"]), error=problem).pack(), reply_to=message)
    every = [hospital.data(name) for name in hospital.places]
    notes = [note for data in every for note in data.notes]
    if not simulated:
        for note in notes:
            log.warning("%s", note)  # with the names that only its own log may have
    samples = [hospital.samples({name: 1.0}) for name in hospital.places]
    about = Hello(
        hospital.site,
        digest=hospital.digest(),
        train=sum(len(data.train) for data in every),
        val=sum(len(data.val) for data in every),
        test=sum(len(data.test) for data in every),
        samples=sum(map(len, samples)),
        shape=list(samples[0].shape),
        notes=[str(note) if simulated else note.brief for note in notes],
        source=every[0].source.numbers() if every[0].source is not None else [],
    )
    return Message(about.pack(), reply_to=message)


def _measured(hospital: Hospital) -> Hello:
    """Return what a scenario has to know of a site before it can prepare its data."""
    site, path = next(iter(hospital.places.items()))
    with reading(site):
        told = hospital.job.scenario.measure(site, path, hospital.job.seed)
    return Hello(hospital.site, measured=told)


def train(cache: Cache, message: Message, context: Context) -> Message:
    """Train for one round from the weights sent; return the weights that may leave."""
    clock = Clock()
    call, hospital, student = _begin(TrainRequest, cache, message, context)
    try:
        call = hospital.completed(call)
    except MissingError as error:
        return Message(Missing(error.records).pack(), reply_to=message)
    if call.model != hospital.role.model:
        raise RunError(f"site {hospital.site}: it trains {hospital.role.model}, not {call.model}")
    job, state = hospital.job, hospital.kept(call.state)
    samples, buffers = hospital.select(call.shares, call.rehearsing, state)
    lesson = _lesson(hospital, call, student, samples, state)
    keys = (job.seed, hospital.site, call.stage, call.round)
    rate = job.learner.rate(call.stage)
    gathered = f"optimiser/{call.stage}/"
    optimiser = descent(lesson, job.optimiser, hospital.tensors(arrays.under(gathered, state)))
    with seeded("train", *keys):
        losses = loop.train(
            lesson,
            samples,
            job.learner,
            job.strategy,
            lambda share: rate * job.schedule.factor(call.done + share / call.rounds),
            keys,
            validate=lambda: hospital.validate(student),
            change=job.change,
            optimiser=optimiser,
        )
    weights = arrays.of_network(student)
    problem = arrays.not_finite(weights)
    if problem is not None:
        raise RunError(f"training gave bad weights: {problem}")
    shared, local = arrays.split(weights, hospital.local)
    stays = _staying(local, buffers, lesson.auxiliary)
    if job.optimiser.keep:
        moments = moments_of(optimiser)
        stays |= {gathered + key: value.cpu().numpy() for key, value in moments.items()}
    if stays:
        hospital.state().save(call.round, stays, base=call.state, needed=call.needed)
    update = Update(
        shared,
        call.round,
        len(samples),
        losses,
        kept=arrays.digest(stays) if stays else "",
        stored=sum(map(len, buffers.values())),
        holds=hospital.holds(call),
        **clock.effort(),
    )
    return Message(update.pack(), reply_to=message)


def _lesson(
    hospital: Hospital,
    call: TrainRequest,
    student: nn.Module,
    samples: Samples,
    state: arrays.Arrays,
) -> Lesson:
    """Return what a round of training begins with; of the student some parameters are frozen."""
    job = hospital.job
    auxiliary = hospital.auxiliary(state)
    frozen = job.strategy.partition(student, call.stage).frozen
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name not in frozen)
    lessons = teacher(hospital, call, samples)
    return Lesson(
        task=job.task,
        student=student,
        model=job.models[call.model],
        auxiliary=auxiliary,
        memory=recalled(hospital, call, samples, lessons.get("teacher")),
        round=call.round,
        start={name: value.detach().clone() for name, value in student.named_parameters()},
        **lessons,
        **start(hospital, call, student, samples),
    )


def _staying(
    local: arrays.Arrays, buffers: dict[str, Stacked], auxiliary: nn.Module | None
) -> arrays.Arrays:
    """Return what the site keeps for its next round, never sent."""
    stays: dict[str, Any] = {f"weights/{key}": value for key, value in local.items()}
    for site, buffer in buffers.items():
        stays[f"buffer/{site}/inputs"] = buffer.inputs.cpu().numpy()
        stays[f"buffer/{site}/targets"] = buffer.targets.cpu().numpy()
    if auxiliary is not None:
        own = arrays.of_network(auxiliary)
        stays |= {f"auxiliary/{key}": value for key, value in own.items()}
    return stays


def report(cache: Cache, message: Message, context: Context) -> Message:
    """Tell what the strategy wants to know of the stage besides weights."""
    clock = Clock()
    call, hospital, network = _begin(ReportRequest, cache, message, context)
    samples = hospital.samples(call.shares)
    problem = too_few(hospital, network, samples, len(samples))
    if problem is not None:
        raise RunError(problem)
    reporting = hospital.job.strategy.reporting(network, hospital.task, samples.shape)
    if reporting is None:
        raise RunError(f"site {hospital.site}: this strategy has nothing to report")
    if hospital.job.privacy.at_hospitals:
        told = protected(hospital, call, reporting, network.eval())
    else:
        told = reporting.tell(network.eval(), samples)
    answer = Report(told, len(samples), **clock.effort())
    return Message(answer.pack(), reply_to=message)


def evaluate(cache: Cache, message: Message, context: Context) -> Message:
    """Score the weights sent, case by case: by one score on validation, by all on test."""
    clock = Clock()
    call, hospital, student = _begin(EvaluateRequest, cache, message, context)
    found, predicting = hospital.score(student, call.split)
    scores = {name: [one[name] for _, one in found] for name in found[0][1]}
    cases = [name if call.split == "test" else str(n) for n, (name, _) in enumerate(found)]
    scored = Scored(cases, scores, predicting=predicting, **clock.effort())
    return Message(scored.pack(), reply_to=message)


def _begin(
    kind: type[AnyRequest], cache: Cache, message: Message, context: Context
) -> tuple[AnyRequest, Hospital, nn.Module]:
    """Read a request; return it with the hospital and the network it is to start from."""
    call = kind.unpack(message.content)
    hospital = Hospital.of(context.node_config, call.job, call.run, cache)
    torch.set_num_threads(hospital.job.learner.threads)
    if call.data and call.data != hospital.digest():
        hospital.reread()  # they may have been put back since
    if call.data and call.data != hospital.digest():
        raise DataError(
            f"site {hospital.site}: its data have changed since the run began; put back what it "
            "had, or begin another run"
        )
    return call, hospital, hospital.load(call.model, call.arrays, call.state, call.arrived)


app = client_app()
"""What a SuperNode runs."""
