"""What a hospital's teacher says, computed once per stage and kept between rounds."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fedcl import arrays
from fedcl.data.samples import Samples, Stacked
from fedcl.hospital.cache import Cache
from fedcl.hospital.site import Hospital
from fedcl.learning import bank, loop
from fedcl.learning.hooks import SiteSummary
from fedcl.learning.step import Activations, Rehearsal, watch
from fedcl.models.base import Model
from fedcl.seeding import torch_rng
from fedcl.tasks.base import Labeller, Task
from fedcl.wire.records import from_record
from fedcl.wire.requests import TrainRequest

T = TypeVar("T", Tensor, Activations)


def teacher(hospital: Hospital, call: TrainRequest, samples: Samples) -> dict[str, Any]:
    """Return the lesson's teacher and what it says; nothing without a teacher.

    Args:
        hospital: that is taught.
        call: brings the teacher's weights.
        samples: the site's own.
    """
    model, job = hospital.role.teacher, hospital.job
    if call.teacher is None or model is None:
        return {}
    weights = call.teacher

    def make() -> dict[str, Any]:
        network = frozen(hospital, model, call.arrived)
        arrays.into_network(network, from_record(weights))
        task, kind = job.task, job.models[model]
        return {
            "teacher": network,
            "teacher_model": kind,
            "answers": kept(partial(task.answers, network), samples),
            "views": kept(partial(view, network, kind, task), samples),
            "past": rehearsal(hospital, call, network, samples),
        }

    mark = call.digests.get("teacher"), str(call.shares), str(call.rehearsing), str(call.arrivals)
    says = of_stage(hospital, call).get(f"teacher of {hospital.site}", mark, make, most=1)
    return says | {"taught": taught(hospital, call)}


def of_stage(hospital: Hospital, call: TrainRequest) -> Cache:
    """Return what a process keeps of a stage; with its first call what it kept of others goes."""
    return hospital.cache.get("stage", (hospital.text, call.stage), Cache, most=1)


def taught(hospital: Hospital, call: TrainRequest) -> list[str]:
    """Return the sites that a teacher has learned from in the run; see `Teaching.refresh`.

    They train its architecture. None of one from elsewhere, and of one that began with such a model
    and knows what that knew.
    """
    roles = hospital.job.roles
    own = roles[hospital.site].teacher
    if own is not None and hospital.job.models[own].teaches:
        return []
    teaching = hospital.job.strategy.teaching
    follows = teaching is not None and teaching.refresh != "stage" and call.done > 0
    stages = call.arrivals if follows else call.arrivals[:-1]
    there = [site for stage in stages for site in stage if site not in call.lost]
    return [site for site in there if roles[site].model == own]


def recalled(
    hospital: Hospital, call: TrainRequest, samples: Samples, teacher: nn.Module | None
) -> Mapping[str, Tensor]:
    """Return what the strategy makes of what the server remembers, worked out once."""
    if call.memory is None and teacher is None:
        return {}
    job, sites = hospital.job, taught(hospital, call)
    marks = (call.digests.get(name, "") for name in ("memory", "teacher"))
    places = tuple(sorted(hospital.places.items()))
    key = places, *marks, str(call.shares), str(call.rehearsing), str(sites)

    def make() -> Mapping[str, Tensor]:
        return job.strategy.recall(
            SiteSummary(
                task=job.task,
                samples=samples,
                memory=hospital.on_device(call.memory),
                teacher=teacher,
                taught=sites,
                rng=torch_rng("recall", job.seed, hospital.site, call.stage),
            )
        )

    return of_stage(hospital, call).get(f"recalled by {hospital.site}", key, make, most=1)


def start(
    hospital: Hospital, call: TrainRequest, student: nn.Module, samples: Samples
) -> dict[str, Any]:
    """Return what the model that the round begins from says, where it is a second teacher.

    In the first round of a run it has learned nothing, and says nothing.
    """
    job, teaching = hospital.job, hospital.job.strategy.teaching
    if teaching is None or not teaching.drift or call.round == 1:
        return {}
    network = frozen(hospital, call.model, call.arrived)
    network.load_state_dict(student.state_dict())
    compute, learner = partial(job.task.answers, network), job.learner
    shown = learner.steps * learner.batch_size if learner.steps else learner.epochs * len(samples)
    again = shown > len(samples)  # else most of what was computed ahead would never be asked for
    return {
        "before": compute,
        "answers_before": kept(compute, samples) if again else None,
        "drift": teaching.drift,
    }


def rehearsal(
    hospital: Hospital, call: TrainRequest, network: nn.Module, samples: Samples
) -> Rehearsal | None:
    """Return inputs of the sites of earlier stages, with the answers of their teachers.

    Args:
        hospital: that is taught.
        call: says who arrived when, and what the server remembers.
        network: the teacher.
        samples: the site's own.
    """
    task, device = hospital.job.task, samples.device
    known = task.known_inputs
    if known is None:
        return None
    *stages, now = call.arrivals
    earlier = [[site for site in stage if site not in call.lost] for stage in stages]
    memory = from_record(call.memory) if call.memory is not None else {}
    teaching = hospital.job.strategy.teaching
    old = bank.read(memory, len(earlier)) if teaching is not None and teaching.bank else []
    before = [site for stage in earlier for site in stage]
    labellers = [] if old else [Labeller(partial(task.answers, network), before)]
    for weights, sites in zip(old, earlier, strict=False):
        one = frozen(hospital, hospital.role.model, call.arrived)
        arrays.into_network(one, arrays.grown(weights, arrays.of_network(one)))
        labellers.append(Labeller(partial(task.answers, one), sites))
    past = known.past(labellers, device, list(call.shares))
    if past is None:
        return None
    assert isinstance(samples, Stacked)  # as where inputs are known without data
    aligned = torch.equal(past.inputs, samples.inputs)
    grows = known.count([*before, *now]) > known.count(before)
    here = None if aligned else known.answered(past, samples.inputs)
    return Rehearsal(past, aligned, len(past) / known.count(now) if grows else None, here)


def frozen(hospital: Hospital, model: str, arrived: list[str]) -> nn.Module:
    """Return an architecture's network that is not trained, on the hospital's device."""
    network = hospital.job.network(model, arrived)
    return network.requires_grad_(False).eval().to(loop.device_of(hospital.job.learner))


LIMIT = 512 * 2**20
"""Bytes of a teacher's answers, and of its layers' outputs, that a process keeps per site."""
LITTLE = 32 * 2**20
"""The same where samples do not lie in memory either."""


def kept(compute: Callable[[Tensor], T], samples: Samples) -> Callable[[Tensor], T] | None:
    """Return what gives, for numbers of samples, what `compute` makes of their inputs.

    It is computed for all of them when first asked for; None where it is too much to be kept, or
    samples are others every time.
    """
    first = samples[torch.zeros(1, dtype=torch.int64)].inputs
    most = LIMIT if isinstance(samples, Stacked) else LITTLE
    if not samples.fixed or len(samples) * compute(first).nbytes > most:
        return None
    every: list[T] = []

    def some(index: Tensor) -> T:
        if not every:
            found = [compute(part.inputs) for part in samples.parts()]
            every.append(found[0] if len(found) == 1 else _joined(found))
        return every[0][index]

    return some


def _joined(parts: list[T]) -> T:
    """Return what was computed of several parts as one."""
    if isinstance(parts[0], Activations):
        return Activations.joined(parts)
    return torch.cat(parts)


@torch.no_grad()
def view(network: nn.Module, model: Model, task: Task, inputs: Tensor) -> Activations:
    """Return what a network makes of all inputs, chunk by chunk; see `watch`."""
    return Activations.joined([watch(network, model, part) for part in task.chunks(inputs)])
