"""Samples, ready or drawn: the same ones whoever loads them."""

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
import pytest
import torch
from torch import Tensor

from fedcl.data.crops import Crops, Item
from fedcl.data.samples import Sample, Samples, Stacked, joined
from fedcl.data.scans import Scan
from fedcl.errors import DataError
from fedcl.seeding import numpy_rng
from tests.images import RNG

CPU = torch.device("cpu")
ORDER = [torch.tensor(batch) for batch in ([0, 3, 1], [2, 2, 4], [1], [4, 0, 3], [3, 3, 3])]


def ready(number: int = 6, start: int = 0) -> Stacked:
    inputs = torch.arange(number * 64.0).reshape(number, 1, 8, 8) + start
    return Stacked(inputs, (inputs % 3).long())


def drawn(slices: int = 5, random: bool = True) -> Crops:
    image = torch.from_numpy(RNG.normal(size=(1, slices, 20, 18)).astype(np.float32))
    scan = Scan.of(image, (image[0] > 1).byte())
    return Crops([Item(scan, n) for n in range(slices)], (8, 8), CPU, random)


def both() -> Samples:
    return joined([drawn(3), ready(3)])


def noisy(inputs: Tensor, targets: Tensor, rng: np.random.Generator) -> Sample:
    """Add noise and mirror every other sample, as an augmentation does."""
    noise = torch.from_numpy(rng.normal(size=tuple(inputs.shape)).astype(np.float32))
    turn = [-1] if rng.random() < 0.5 else []
    return (inputs + noise).flip(turn), targets.flip(turn)


def all_of(batches: Iterator[Stacked]) -> list[tuple[Tensor, Tensor]]:
    return [(batch.inputs, batch.targets) for batch in batches]


def alike(one: Sequence[tuple[Tensor, ...]], other: Sequence[tuple[Tensor, ...]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    )


# --- batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ready, drawn, both])
@pytest.mark.parametrize("change", [None, noisy])
def test_the_batches_do_not_depend_on_who_loads_them(make, change):
    samples = make()
    alone, one, two = (
        all_of(samples.batches(ORDER, ("site", 3), change, loaders)) for loaders in (0, 1, 2)
    )
    assert alike(alone, one) and alike(alone, two)
    assert [len(inputs) for inputs, _ in alone] == [3, 3, 1, 3, 3]
    again = all_of(samples.batches(ORDER, ("site", 3), change, 2))
    assert alike(alone, again), "same keys, same bits"
    random = not samples.fixed or change is not None
    assert alike(alone, all_of(samples.batches(ORDER, ("site", 4), change))) != random


def test_what_is_random_comes_from_keys_batch_and_place():
    """Independently: the generator of every sample, and what is made of it."""
    samples = drawn()
    found = all_of(samples.batches(ORDER, ("site", 3), noisy, 2))
    for number, (index, (inputs, targets)) in enumerate(zip(ORDER, found, strict=True), start=1):
        for place, sample in enumerate(index.tolist()):
            rng = numpy_rng("sample", "site", 3, number, place)
            image, labels = noisy(*samples.drawn(sample, rng), rng)
            assert torch.equal(inputs[place], image) and torch.equal(targets[place], labels)
    last = found[-1][0]
    assert not torch.equal(last[0], last[1]), "the same sample, drawn anew for every place"


def test_samples_that_lie_ready_are_taken_as_they_are():
    samples = ready()
    for index, batch in zip(ORDER, samples.batches(ORDER, ("any",), None, 2), strict=True):
        assert torch.equal(batch.inputs, samples.inputs[index])
        assert torch.equal(batch.targets, samples.targets[index])
    changed = all_of(samples.batches(ORDER, (), lambda x, y, _: (x + 1, y)))
    assert torch.equal(changed[0][0], samples.inputs[ORDER[0]] + 1)


@pytest.mark.parametrize("loaders", [0, 1, 2])
@pytest.mark.parametrize("make", [ready, drawn])
def test_batches_without_end_are_loaded_a_few_ahead(make, loaders: int):
    asked: list[int] = []

    def endless() -> Iterator[Tensor]:
        for number in count():
            asked.append(number)
            yield torch.tensor([number % 3, 1])

    batches = make().batches(endless(), ("x",), noisy, loaders)
    assert [len(batch) for batch in islice(batches, 4)] == [2] * 4
    assert len(asked) <= 4 + 2
    batches.close()
    assert list(make().batches([], (), noisy, loaders)) == []


@pytest.mark.parametrize("loaders", [0, 2])
def test_what_goes_wrong_in_a_loader_is_raised_where_the_batch_is_asked_for(loaders: int):
    def broken(inputs: Tensor, targets: Tensor, rng: np.random.Generator) -> Sample:
        if inputs.mean() > 3 * 64:
            raise ValueError("broken")
        return inputs, targets

    batches = ready().batches([torch.tensor([n]) for n in range(6)], (), broken, loaders)
    for _ in range(3):
        next(batches)
    with pytest.raises(ValueError, match="broken"):
        next(batches)


# --- samples by their numbers ----------------------------------------------------------------


@pytest.mark.parametrize("make", [ready, drawn, both, lambda: drawn(random=False)])
def test_all_samples_come_in_order_each_once(make):
    samples = make()
    parts = list(samples.parts())
    assert sum(map(len, parts)) == len(samples)
    inputs, targets = (
        torch.cat([getattr(p, name) for p in parts]) for name in ("inputs", "targets")
    )
    assert tuple(inputs.shape[1:]) == samples.shape
    everything = samples[torch.arange(len(samples))]
    assert isinstance(everything, Stacked) and everything.device == CPU
    assert torch.equal(everything.inputs, inputs) and torch.equal(everything.targets, targets)
    some = samples[torch.tensor([2, 0])]
    assert torch.equal(some.inputs, inputs[[2, 0]]) and torch.equal(some.targets, targets[[2, 0]])


# --- joined ----------------------------------------------------------------------------------


def test_samples_that_lie_ready_are_joined_to_such():
    one, two = ready(2), ready(3, start=1000)
    assert joined([one]) is one
    found = joined([one, two])
    assert isinstance(found, Stacked) and found.fixed and len(found) == 5
    assert torch.equal(found.inputs, torch.cat([one.inputs, two.inputs]))
    assert torch.equal(found.targets, torch.cat([one.targets, two.targets]))


def test_ready_and_drawn_samples_are_joined_in_order():
    parts = [ready(2), drawn(3), ready(1, start=500), drawn(2)]
    found = joined(parts)
    assert len(found) == 8 and found.shape == (1, 8, 8) and not found.fixed
    numbered = [(part, n) for part in parts for n in range(len(part))]
    for number, (part, n) in enumerate(numbered):
        one = found.drawn(number, numpy_rng("any", number))
        other = part.drawn(n, numpy_rng("any", number))
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_joined_is_fixed_where_all_of_it_is():
    cut = drawn(random=False)
    assert ready().fixed and cut.fixed and not drawn().fixed
    assert joined([ready(), cut]).fixed and not joined([ready(), cut, drawn()]).fixed


@pytest.mark.parametrize("other", [ready(2), drawn(2)])
def test_samples_of_several_shapes_are_not_joined(other: Samples):
    small = Stacked(torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 4, 8).long())
    with pytest.raises(DataError, match=r"several shapes \(\(1, 4, 8\), \(1, 8, 8\)\)"):
        joined([small, other])
