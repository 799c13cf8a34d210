"""Parts of images: about the centre, drawn at random, padded where they reach beyond."""

from collections import Counter

import numpy as np
import pytest
import torch

from fedcl.data.cases import Case
from fedcl.data.crops import Crops, Item
from fedcl.data.framing import padded
from fedcl.data.scans import Scan
from fedcl.seeding import numpy_rng
from fedcl.tasks.segmentation import Segmentation
from tests.images import RNG

CPU = torch.device("cpu")


def scan(channels: int = 2, *shape: int, labels: np.ndarray | None = None) -> Scan:
    """Return a scan in which every voxel has a value of its own."""
    image = 3 + np.arange(channels * np.prod(shape), dtype=np.float32).reshape(channels, *shape)
    label = RNG.integers(0, 3, shape).astype(np.uint8) if labels is None else labels
    return Scan.of(torch.from_numpy(image), torch.from_numpy(label))


def items(one: Scan, dims: int) -> list[Item]:
    return [Item(one)] if dims == 3 else [Item(one, n) for n in range(one.shape[1])]


def sources(one: Scan, dims: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the image and labels that each sample is a part of, in numpy."""
    image, labels = one.content.image().numpy(), one.content.labels().numpy()
    if dims == 3:
        return [(image, labels)]
    return [(image[:, n], labels[n]) for n in range(len(labels))]


def place_of(part: np.ndarray, image: np.ndarray) -> tuple[int, ...]:
    """Return where the first voxel of a part lies in its image, by its value."""
    (at,) = np.argwhere(image[0] == part[0].flat[0])
    return tuple(at.tolist())


# --- about the centre ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 12, 15), (8, 8)),
        ((3, 12, 15), (7, 15)),
        ((5, 12, 15), (3, 8, 8)),
        ((6, 9, 9), (3, 4, 9)),
    ],
)
def test_a_part_about_the_centre_is_that_of_numpy(shape, size):
    one = scan(2, *shape)
    crops = Crops(items(one, len(size)), size, CPU)
    assert crops.fixed and crops.shape == (2, *size) and crops.device == CPU
    every = sources(one, len(size))
    assert len(crops) == len(every)
    for number, (image, labels) in enumerate(every):
        starts = [(n - m) // 2 for n, m in zip(labels.shape, size, strict=True)]
        box = tuple(slice(a, a + m) for a, m in zip(starts, size, strict=True))
        found, classes = crops.drawn(number, np.random.default_rng(0))
        assert found.dtype == torch.float32 and classes.dtype == torch.int64
        assert np.array_equal(found, image[:, *box])
        assert np.array_equal(classes, labels[None, *box])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 6, 8), (8, 12)),
        ((2, 6, 8), (9, 8)),
        ((2, 9, 5), (6, 8)),  # longer along one axis, shorter along the other
        ((3, 6, 8), (5, 6, 9)),
        ((7, 6, 8), (4, 8, 8)),
    ],
)
def test_beyond_the_image_lies_its_least_value_and_label_0(shape, size):
    one = scan(2, *shape, labels=np.full(shape, 2, np.uint8))
    crops = Crops(items(one, len(size)), size, CPU)
    for number, (image, labels) in enumerate(sources(one, len(size))):
        found, classes = (part.numpy() for part in crops.drawn(number, np.random.default_rng(0)))
        assert found.shape == (2, *size) and classes.shape == (1, *size)
        there = np.argwhere(classes[0] == 2)
        before, end = there.min(0), there.max(0) + 1
        starts = [max(n - m, 0) // 2 for n, m in zip(labels.shape, size, strict=True)]
        inside = tuple(map(slice, starts, starts + end - before))
        assert np.array_equal(found[:, *map(slice, before, end)], image[:, *inside])
        for n, m, a, b in zip(labels.shape, size, before, end, strict=True):
            assert b - a == min(n, m) and abs(a - (m - b)) <= 1, "in the middle"
        lowest = one.content.image().numpy().min((1, 2, 3))  # of the whole scan
        beyond = np.ones(size, bool)
        beyond[tuple(map(slice, before, end))] = False
        assert beyond.any()
        assert (found[:, beyond] == lowest[:, None]).all() and (classes[0, beyond] == 0).all()


def test_a_border_is_as_wide_as_asked_for():
    image = torch.arange(24.0).reshape(2, 3, 4)
    found = padded(image, (2, 1), (6, 9), (-1.0, -2.0))
    for channel, value in enumerate((-1.0, -2.0)):
        expected = np.pad(image[channel], [(2, 1), (1, 4)], constant_values=value)
        assert np.array_equal(found[channel], expected)
    assert padded(image, (0, 0), (3, 4), (0.0, 0.0)) is image


# --- at random -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size"), [((2, 20, 17), (8, 8)), ((9, 20, 17), (4, 8, 8)), ((9, 20, 17), (9, 20, 5))]
)
@pytest.mark.parametrize("foreground", [0.0, 0.5, 1.0])
def test_parts_drawn_at_random_lie_in_the_image(shape, size, foreground: float):
    one = scan(2, *shape)
    crops = Crops(items(one, len(size)), size, CPU, random=True, foreground=foreground)
    assert not crops.fixed
    every, seen = sources(one, len(size)), set()
    for number in range(60):
        image, labels = every[number % len(every)]
        found, classes = crops.drawn(number % len(every), np.random.default_rng(number))
        at = place_of(found.numpy(), image)
        box = tuple(slice(a, a + m) for a, m in zip(at, size, strict=True))
        assert np.array_equal(found, image[:, *box]) and np.array_equal(classes[0], labels[*box])
        seen.add(at)
    assert len(seen) > 10


def test_every_part_may_be_drawn():
    one = scan(1, 1, 11, 10)
    crops = Crops(items(one, 2), (8, 8), CPU, random=True, foreground=0.0)
    image, _ = sources(one, 2)[0]
    found = Counter(
        place_of(crops.drawn(0, np.random.default_rng(n))[0].numpy(), image) for n in range(600)
    )
    assert set(found) == {(row, column) for row in range(4) for column in range(3)}
    assert min(found.values()) > 20, "50 of each are expected"


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("foreground", [0.0, 0.25, 0.8, 1.0])
def test_as_many_parts_as_asked_for_are_centred_on_a_label(foreground: float, dims: int):
    labels = np.zeros((7, 40, 40), np.uint8)
    labels[2:5, 14:26, 14:26] = 1
    labels[3, 20, 16:18] = 2  # of few voxels, and drawn as often as the other
    size = (3, 8, 8)[-dims:]
    one = scan(1, 7, 40, 40, labels=labels)
    crops = Crops(items(one, dims), size, CPU, random=True, foreground=foreground)
    number, count = (0, 1500) if dims == 3 else (3, 1500)  # the slice that has both classes
    middle = tuple(n // 2 for n in size)
    rng = np.random.default_rng(1)
    centres = Counter(int(crops.drawn(number, rng)[1][0][middle]) for _ in range(count))
    # Drawn anywhere, a part is centred on a label by chance.
    starts = [range(n - m + 1) for n, m in zip(labels.shape[-dims:], size, strict=True)]
    space = labels if dims == 3 else labels[3]
    reached = space[
        tuple(slice(s[0] + m, s[-1] + m + 1) for s, m in zip(starts, middle, strict=True))
    ]
    for value in (1, 2):
        share = foreground / 2 + (1 - foreground) * (reached == value).mean()
        deviation = np.sqrt(share * (1 - share) / count)
        assert centres[value] / count == pytest.approx(share, abs=4.5 * deviation + 1e-9)


def test_a_label_at_the_border_is_in_the_part_and_the_part_in_the_image():
    labels = np.zeros((1, 30, 30), np.uint8)
    labels[0, 0, 29] = labels[0, 29, 2] = 1
    crops = Crops(items(scan(1, 1, 30, 30, labels=labels), 2), (8, 8), CPU, True, foreground=1.0)
    ends = set()
    for n in range(40):
        _, classes = crops.drawn(0, np.random.default_rng(n))
        assert classes.sum() == 1
        ends.add(tuple(classes[0].nonzero()[0].tolist()))
    assert ends == {(0, 7), (7, 2)}


def test_a_slice_is_drawn_by_its_own_labels_and_one_without_anywhere():
    labels = np.zeros((3, 24, 24), np.uint8)
    labels[0, 4, 4], labels[2, 20, 20] = 1, 1
    one = scan(1, 3, 24, 24, labels=labels)
    crops = Crops(items(one, 2), (8, 8), CPU, random=True, foreground=1.0)
    image = sources(one, 2)
    for number, expected in ((0, {(0, 0)}), (2, {(16, 16)})):
        found = {
            place_of(crops.drawn(number, np.random.default_rng(n))[0].numpy(), image[number][0])
            for n in range(10)
        }
        assert found == expected
    anywhere = {
        place_of(crops.drawn(1, np.random.default_rng(n))[0].numpy(), image[1][0])
        for n in range(50)
    }
    assert len(anywhere) > 30


def test_an_image_smaller_than_a_part_is_padded_along_that_axis_alone():
    one = scan(1, 2, 6, 30, labels=np.ones((2, 6, 30), np.uint8))
    crops = Crops(items(one, 3), (4, 8, 8), CPU, random=True, foreground=0.5)
    for n in range(20):
        image, classes = crops.drawn(0, np.random.default_rng(n))
        assert image.shape == (1, 4, 8, 8)
        assert (image[0][classes[0] == 0] == one.lowest[0]).all()
        assert (image[0][classes[0] == 0] == one.lowest[0]).all()
        assert classes[0].any(2).any(1).tolist() == [False, True, True, False]
        assert classes[0].any(2).any(0).tolist() == [False, *[True] * 6, False]


# --- bits ------------------------------------------------------------------------------------


def test_same_keys_same_bits():
    one = scan(2, 9, 20, 17)
    crops = Crops(items(one, 3), (4, 8, 8), CPU, random=True)

    def drawn(*keys: str | int) -> torch.Tensor:
        return torch.stack([crops.drawn(0, numpy_rng(*keys, n))[0] for n in range(8)])

    assert torch.equal(drawn("site", 1), drawn("site", 1))
    assert not torch.equal(drawn("site", 1), drawn("site", 2))
    again = crops[torch.tensor([0, 0])]
    assert torch.equal(again.inputs[0], again.inputs[1]), "by its number, always the same"


# --- as the task has them --------------------------------------------------------------------


def test_whole_images_are_padded_to_the_largest_of_the_site():
    small, large = scan(1, 2, 6, 8), scan(1, 3, 10, 7)
    cases = [Case("p", (small,)), Case("q", (large,))]
    samples = Segmentation(1, 3).samples(cases, CPU)
    assert samples.shape == (1, 10, 8) and len(samples) == 5
    inner = samples.inputs[0, 0, 2:8]
    assert torch.equal(inner, small.content.image()[0, 0])
    volumes = Segmentation(1, 3, dims=3).samples(cases, CPU)
    assert volumes.shape == (1, 3, 10, 8) and len(volumes) == 2


@pytest.mark.parametrize(("dims", "size"), [(2, (8, 12)), (3, (2, 8, 12))])
def test_samples_have_the_size_of_the_setting(dims: int, size):
    cases = [Case("p", (scan(1, 3, 10, 17), scan(1, 2, 20, 9)))]
    cut = Segmentation(1, 3, dims=dims, size=size).samples(cases, CPU)
    drawn = Segmentation(1, 3, dims=dims, patch=size, foreground=1.0).samples(cases, CPU)
    assert cut.shape == drawn.shape == (1, *size)
    assert len(cut) == len(drawn) == (5 if dims == 2 else 2)
    assert cut.fixed and not drawn.fixed
