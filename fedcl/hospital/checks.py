"""Whether a hospital can take part: its data, and what the model makes of them."""

from torch import nn

from fedcl.data.samples import Samples
from fedcl.errors import DataError
from fedcl.hospital.site import Hospital
from fedcl.learning import loop
from fedcl.registry import describe, name_of

LEAST = 4
"""Training samples below which a hospital tells nothing about them but weights."""


def check(hospital: Hospital) -> None:
    """Read the data and see that the model can take it.

    Raises:
        DataError: it cannot; names the site.
    """
    keeps_privacy(hospital)
    device, task = loop.device_of(hospital.job.learner), hospital.task
    whole = dict.fromkeys(hospital.places, 1.0)
    first = {name: hospital.job.roles[name].first_share for name in whole}
    size = hospital.job.learner.batch_size
    counts = [sum(_count(hospital, *one) for one in shares.items()) for shares in (first, whole)]
    smallest = min(count % size or min(count, size) for count in counts)
    for name in hospital.places:
        samples = hospital.samples({name: first[name]})
        for model in hospital.job.models:  # all of them are evaluated here
            network = hospital.network(model, (name,)).to(device)
            own = model == hospital.role.model
            problem = task.problem(network, samples, smallest if own else 0)
            if problem is not None:
                raise DataError(f"site {name}: {problem}")
        least = hospital.job.strategy.requirements.batch
        if hospital.role.teacher is not None and len(samples) < least:
            raise DataError(
                f"site {name}: {len(samples)} training samples; strategy "
                f"{name_of(hospital.job.strategy)} compares those of a batch and needs at least "
                f"{least}"
            )
    first_place = next(iter(hospital.places))
    samples = hospital.samples({first_place: first[first_place]})
    network = hospital.network(hospital.role.model, (first_place,))
    problem = too_few(hospital, network, samples, min(counts))
    if problem is not None:
        raise DataError(problem)
    hospital.auxiliary({})


def _count(hospital: Hospital, name: str, share: float) -> int:
    return len(hospital.samples({name: share}))


def keeps_privacy(hospital: Hospital) -> None:
    """Raise `DataError` or `RunError` where it cannot keep the rule that is for its reports."""
    rule = hospital.job.privacy
    if not rule.at_hospitals:
        return
    hospital.state()  # has what it has told once
    if hospital.holding and describe(rule).get("seed") is not None:
        raise DataError(
            f"site {hospital.site}: privacy.seed: the server knows it and could take the noise "
            "away; take null"
        )


def too_few(hospital: Hospital, network: nn.Module, samples: Samples, count: int) -> str | None:
    """Return why the strategy's report of `count` such samples must not be sent, or None."""
    reporting = hospital.job.strategy.reporting(network, hospital.task, samples.shape)
    if reporting is None or count >= LEAST:
        return None
    return (
        f"site {hospital.site}: {count} training samples; what strategy "
        f"{name_of(hospital.job.strategy)} tells of fewer than {LEAST} would be close to an image; "
        "give it more cases or take another strategy"
    )
